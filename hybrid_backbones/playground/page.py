"""The page: its tabs, its looks, and a server that keeps everything on this machine.

The browser gets nothing from elsewhere, and is forbidden to ask for it; the server reads files that
were uploaded and the models' own, and keeps uploads in a folder that ends with it.
"""

import html
import os
import socket
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gradio as gr

from ..training.mini_models import MiniTraining
from . import compare, detect, inside, sketch
from .handlers import reporting
from .models import Models

HOST = "127.0.0.1"
HOSTS = (HOST, "localhost")
MAX_UPLOAD = "20mb"
# in seconds: how often uploads and results are deleted, and at which age
SWEEP, MAX_AGE = 60, 1800
# in seconds, between two looks at the trainings
TICK = 2
# routes of Gradio that fetch from elsewhere or tell of other users
CLOSED = ("/proxy=", "/file=http", "/monitoring", "/process_recording", "/vibe-", "/run-history")
POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; frame-ancestors 'self'; "
    "form-action 'self'; base-uri 'self'"
)
FONT = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica", "Arial", "sans-serif")
CSS = (Path(__file__).parent / "page.css").read_text()


class OnThisMachine:
    """Middleware: refuse what would fetch from elsewhere, and other hosts' names for this server.

    Args:
        app: the server.
        hosts: names under which the page is reached, without the port.
    """

    def __init__(self, app: Callable[..., Awaitable], hosts: tuple[str, ...] = HOSTS):
        self.app, self.hosts = app, hosts

    async def __call__(self, scope: dict[str, Any], receive: Callable, send: Callable) -> None:
        """Answer a request, with the policy that forbids the browser all other addresses."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        host = headers.get(b"host", b"").decode("latin-1").partition(":")[0]
        if host not in self.hosts or any(part in scope["path"].lower() for part in CLOSED):
            await send(dict(type="http.response.start", status=403, headers=[]))
            await send(dict(type="http.response.body", body=b"not on this page"))
            return

        async def answer(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                policy = (b"content-security-policy", POLICY.encode())
                message = message | dict(headers=[*message["headers"], policy])
            await send(message)

        await self.app(scope, receive, answer)


def training_table(training: MiniTraining) -> str:
    """Return the states of the trainings as HTML."""
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td><td><span class='state-{state.kind}'>{state.kind}</span> "
        f"{html.escape(state.words)}<progress value='{state.share:.3f}'></progress></td></tr>"
        for name, state in training.states.items()
    )
    return f"<table class='hb-table' id='trainings'>{rows}</table>"


def build_training(training: MiniTraining) -> None:
    """Lay out the progress of the trainings, which can be stopped and go on."""
    with gr.Column(elem_id="training"):
        gr.Markdown(
            "**Models of the mini set.** Each can be used as soon as it is ready. Trained once, "
            "they are kept in `work_dirs`."
        )
        table = gr.HTML(training_table(training), padding=True)
        with gr.Row():
            stop = gr.Button("Stop training", size="sm", elem_id="stop-training")
            go_on = gr.Button("Train what is missing", size="sm", elem_id="start-training")
    timer = gr.Timer(TICK)

    def look() -> str:
        return training_table(training)

    @reporting
    def stop_it() -> str:
        training.stop()
        return look()

    @reporting
    def start_it() -> str:
        training.start()
        return look()

    settings: dict = dict(outputs=table, show_progress="hidden", api_visibility="private")
    timer.tick(look, **settings)
    stop.click(stop_it, **settings)
    go_on.click(start_it, **settings)


def build(models: Models, training: MiniTraining | None = None) -> gr.Blocks:
    """Lay out the page.

    Args:
        models: models to serve.
        training: trainings of those that are not there yet.
    """
    with gr.Blocks(
        title="Hybrid Backbones playground",
        analytics_enabled=False,
        delete_cache=(SWEEP, MAX_AGE),
        fill_width=False,
    ) as page:
        gr.Markdown(
            "# Hybrid Backbones playground\nTry trained models, and see what they look at. "
            "Everything stays on this machine."
        )
        if training is not None:
            build_training(training)
        with gr.Tab("Detect / Segment / Classify", id="detect"):
            detect.build(models)
        with gr.Tab("Look inside", id="inside"):
            inside.build(models)
        with gr.Tab("Search by sketch", id="sketch"):
            sketch.build(models)
        with gr.Tab("Compare backbones", id="compare"):
            compare.build()
    return page


def require_port(port: int) -> None:
    """Check that a port of this machine can be served.

    Raises:
        ValueError: if it cannot; the message says what to do.
    """
    if not 0 < port < 65536:
        raise ValueError(f"--port must be from 1 to 65535, got {port}")
    with socket.socket() as probe:
        # as the server does, so that a port that was just left can be used again
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise ValueError(
                f"--port {port} cannot be used ({error.strerror}): stop what uses it, or choose "
                "another"
            ) from error


@contextmanager
def private_uploads() -> Iterator[Path]:
    """Keep uploads and results in a folder that only this user can read, and delete it at the end.

    Components take the folder when they are built.
    """
    before = os.environ.get("GRADIO_TEMP_DIR")
    with tempfile.TemporaryDirectory(prefix="hybrid_backbones_") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        try:
            yield Path(folder)
        finally:
            if before is None:
                del os.environ["GRADIO_TEMP_DIR"]
            else:
                os.environ["GRADIO_TEMP_DIR"] = before


def bypass_proxies() -> None:
    """Let Gradio ask its own server, as it does at the start, past the proxies that are set."""
    kept = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    # a star alone stands for all hosts, but means nothing in a list
    if kept != "*":
        kept = ",".join(dict.fromkeys([*filter(None, kept.split(",")), *HOSTS]))
    # clients differ in which of the two they read first
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = kept


@contextmanager
def serving(page: gr.Blocks, port: int) -> Iterator[str]:
    """Serve the page on the loopback address within the context.

    Yields:
        address of the page.
    """
    # Gradio's own libraries report their use by default
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    bypass_proxies()
    page.queue(api_open=False, default_concurrency_limit=4)
    _, address, _ = page.launch(
        server_name=HOST,
        server_port=port,
        share=False,
        inbrowser=False,
        quiet=True,
        prevent_thread_lock=True,
        max_file_size=MAX_UPLOAD,
        # nothing but uploads and results is ever served, whatever the environment says
        allowed_paths=[tempfile.mkdtemp(dir=os.environ.get("GRADIO_TEMP_DIR"))],
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
        app_kwargs=dict(middleware=[(OnThisMachine, (), {})], docs_url=None, redoc_url=None),
        theme=gr.themes.Base(primary_hue="indigo", font=FONT, font_mono=("monospace",)),
        css=CSS,
    )
    try:
        yield address
    finally:
        page.close(verbose=False)
