"""The page in a browser, as people use it: pictures, models, clicks, mistakes, and no leaks."""

import json
import threading
import time
import urllib.error
import urllib.request
from urllib.parse import urlparse

import numpy as np
import pytest
from demo_cases import noise
from PIL import Image
from selenium.webdriver.common.action_chains import ActionChains

from hybrid_backbones.playground import detect, inside
from hybrid_backbones.playground.images import MAX_SIDE

from .conftest import Visit, start_browser


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Files that users upload."""
    folder = tmp_path_factory.mktemp("files")
    Image.fromarray(noise(96, 64)).save(folder / "small.png")
    Image.fromarray(noise(2 * MAX_SIDE, 40)).save(folder / "large.png")
    (folder / "broken.png").write_bytes((folder / "small.png").read_bytes()[:99])
    (folder / "text.png").write_text("no picture")
    (folder / "empty.png").write_bytes(b"")
    return folder


def start_over(visit, field, path):
    visit.upload(field, path)
    visit.wait_for_picture(field)


def test_a_picture_is_segmented_beside_a_second_model(visit, folder, models):
    start_over(visit, "detect-picture", folder / "small.png")
    visit.choose("detect-model", "fpn_uniformer_xxs")
    visit.choose("detect-second", "maskrcnn_uniformer_xxs")
    visit.click("detect-run")
    right = visit.wait_for_text("detect-right-table", "network")
    left = visit.text("detect-left-table")
    assert left.startswith("fpn_uniformer_xxs\nclass area\n")
    assert right.startswith("maskrcnn_uniformer_xxs\nclass score")
    picture = detect.read_upload(folder / "small.png")
    expected = detect.find(models.named("fpn_uniformer_xxs"), picture, 0.3)
    assert [" ".join(row) for row in expected.rows] == left.splitlines()[2:-1]
    image = visit.wait_for_picture("detect-left")
    width = visit.browser.execute_script("return arguments[0].naturalWidth", image)
    assert width == expected.drawn.shape[1] >= 512
    visit.wait_for_picture("detect-right")
    visit.screenshot("detect")


def test_a_sample_is_classified_with_one_click(visit):
    sample = visit.until(lambda: visit.find("button.gallery-item"))
    sample.click()
    visit.wait_for_picture("detect-picture")
    visit.click("detect-run")
    lines = visit.wait_for_text("detect-left-table", "network").splitlines()
    assert lines[:2] == ["imagenet_swiftformer_xs", "class score"]
    scores = [float(line.split()[1]) for line in lines[2:7]]
    assert scores == sorted(scores, reverse=True)
    assert visit.find("#detect-right") is None


def test_a_click_into_the_picture_shows_where_that_position_attends(visit, folder, monkeypatch):
    positions = []
    draw = inside.input_panels

    def input_panels(subject):
        positions.append(subject.position)
        return draw(subject)

    monkeypatch.setattr(inside, "input_panels", input_panels)
    visit.open_tab("Look inside")
    start_over(visit, "inside-picture", folder / "small.png")
    visit.choose("inside-model", "imagenet_biformer_t")
    visit.choose("inside-what", "routes")
    image = visit.wait_for_picture("inside-enlarged")
    # column 70, row 20 of 96 × 64, from the centre
    scale = image.size["width"] / 96
    offset = int((70.5 - 48) * scale), int((20.5 - 32) * scale)
    ActionChains(visit.browser).move_to_element_with_offset(image, *offset).click().perform()
    visit.wait_for_text("inside-words", "Bi-level routing")
    images = visit.browser.find_elements("css selector", "#inside-gallery img")
    assert len(images) > 3
    assert positions == [(20, 70)]
    visit.screenshot("inside")


def test_layers_of_the_chosen_model_can_be_chosen(visit, folder):
    visit.open_tab("Look inside")
    start_over(visit, "inside-picture", folder / "small.png")
    visit.choose("inside-model", "fpn_uniformer_xxs")
    visit.choose("inside-what", "features")
    visit.choose("inside-layer", "backbone.stages.1")
    visit.click("inside-run")
    # the input and one stage
    visit.wait_for_text("inside-words", "2 pictures")
    visit.choose("inside-what", "routes of BiFormer")
    visit.click("inside-run")
    assert "has nothing to show of routes of BiFormer" in visit.sentence()


def test_layers_of_the_first_model_can_be_chosen(visit, models):
    visit.open_tab("Look inside")
    visit.choose("inside-layer", inside.layers_of(models[0])[0])


MISTAKES = {
    "text.png": "This file is no picture that can be read",
    "broken.png": "truncated or not an image",
    "empty.png": "The picture is an empty file",
    None: "Choose a picture first",
}


@pytest.mark.parametrize("name", MISTAKES, ids=str)
def test_a_wrong_upload_is_one_sentence_and_the_page_lives_on(visit, folder, name):
    if name:
        visit.upload("detect-picture", folder / name)
        visit.until(lambda: visit.find("#detect-picture img"))
    visit.click("detect-run")
    sentence = visit.sentence()
    assert MISTAKES[name] in sentence
    assert "\n" not in sentence
    assert "Traceback" not in sentence


def test_a_missing_checkpoint_is_one_sentence_and_the_page_lives_on(visit, folder):
    start_over(visit, "detect-picture", folder / "small.png")
    visit.choose("detect-model", "missing")
    visit.click("detect-run")
    assert "no checkpoint at" in visit.sentence()
    visit.choose("detect-model", "imagenet_swiftformer_xs")
    visit.click("detect-run")
    visit.wait_for_text("detect-left-table", "network")


def test_a_large_picture_is_scaled_down_with_a_note(visit, folder):
    start_over(visit, "detect-picture", folder / "large.png")
    visit.click("detect-run")
    text = visit.wait_for_text("detect-left-table", "network")
    assert f"Scaled down from {2 * MAX_SIDE}×40 to {MAX_SIDE}×20 pixels" in text


def test_an_unforeseen_error_is_logged_and_the_page_lives_on(visit, folder, monkeypatch, logged):
    def broken(*_):
        raise AttributeError("our own bug")

    start_over(visit, "detect-picture", folder / "small.png")
    with monkeypatch.context() as patch:
        patch.setattr(detect, "draw", broken)
        visit.click("detect-run")
        sentence = visit.sentence()
    assert "no fault of yours (AttributeError)" in sentence
    assert "our own bug" not in sentence
    assert "the playground has a bug" in logged
    visit.click("detect-run")
    visit.wait_for_text("detect-left-table", "network")


def test_cancelling_stops_the_work_at_its_next_step(visit, folder, monkeypatch):
    started, go_on, done = threading.Event(), threading.Event(), []

    def slow(scene):
        done.append(len(done))
        started.set()
        go_on.wait(60)

    views = dict.fromkeys(inside.VIEWS, slow)
    monkeypatch.setattr(inside, "VIEWS", views)
    visit.open_tab("Look inside")
    start_over(visit, "inside-picture", folder / "small.png")
    visit.choose("inside-what", "all there is")
    visit.click("inside-run")
    assert started.wait(60)
    visit.click("inside-cancel")
    time.sleep(1)
    go_on.set()
    time.sleep(2)
    assert len(done) == 1
    # the model is free again
    monkeypatch.undo()
    visit.choose("inside-what", "features")
    visit.click("inside-run")
    visit.wait_for_text("inside-words", "Stage features")


def test_two_users_at_once_get_their_own_answers(browser, address, folder, models):
    Image.fromarray(np.full((64, 64, 3), 40, np.uint8)).save(folder / "other.png")
    model = models.named("fpn_uniformer_xxs")
    second = start_browser()
    try:
        users = [(Visit(browser, address), "small.png"), (Visit(second, address), "other.png")]
        for visit, name in users:
            start_over(visit, "detect-picture", folder / name)
            visit.choose("detect-model", model.name)
        for visit, _ in users:
            visit.click("detect-run")
        answers = []
        for visit, name in users:
            lines = visit.wait_for_text("detect-left-table", "network").splitlines()[2:-1]
            expected = detect.find(model, detect.read_upload(folder / name), 0.3)
            assert lines == [" ".join(row) for row in expected.rows]
            answers.append(lines)
        assert answers[0] != answers[1]
    finally:
        second.quit()


def test_a_phone_shows_all_without_scrolling_sideways(address, folder):
    phone = start_browser(500, 800)
    try:
        phone.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            dict(width=375, height=740, deviceScaleFactor=2, mobile=True),
        )
        visit = Visit(phone, address)
        for tab, field, button in (
            ("Detect / Segment / Classify", "detect-picture", "detect-run"),
            ("Look inside", "inside-picture", "inside-run"),
        ):
            if button != "detect-run":
                visit.open_tab(tab)
            start_over(visit, field, folder / "small.png")
            visit.click(button)
            words = "detect-left-table" if button == "detect-run" else "inside-words"
            visit.wait_for_text(words, "network" if button == "detect-run" else "Where")
            visit.screenshot(f"phone-{field}")
            root = "return document.documentElement"
            assert phone.execute_script(f"{root}.scrollWidth") <= 375
            box = visit.find(f"#{button}").rect
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= 375
            assert box["height"] >= 32
    finally:
        phone.quit()


def test_nothing_leaves_this_machine(visit, folder):
    """Look at all requests of the browser since it began, over all tests before this one."""
    start_over(visit, "detect-picture", folder / "small.png")
    visit.click("detect-run")
    visit.wait_for_text("detect-left-table", "network")
    events = [
        json.loads(line["message"])["message"] for line in visit.browser.get_log("performance")
    ]
    addresses = [
        urlparse(event["params"]["request"]["url"])
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    ]
    assert len(addresses) > 20
    asked = {one.hostname for one in addresses if one.scheme not in ("data", "blob")}
    assert asked == {"127.0.0.1"}
    # a page that tried, and was kept from it by the policy, would be wrong as well
    complaints = [line["message"] for line in visit.browser.get_log("browser")]
    assert [line for line in complaints if "Content Security Policy" in line] == []


def status_of(address, **headers):
    try:
        with urllib.request.urlopen(urllib.request.Request(address, headers=headers)) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.parametrize(
    "path",
    [
        *(
            "gradio_api/file=/etc/passwd",
            "gradio_api/file=README.md",
            "gradio_api/file=/etc/../etc/hosts",
        ),
        *("file=/etc/passwd", "gradio_api/file=http://127.0.0.1:9/", "gradio_api/proxy=http://x/"),
        "monitoring",
    ],
)
def test_files_of_the_server_and_other_addresses_cannot_be_fetched(address, path):
    assert status_of(address) == 200
    assert status_of(address + path) in (403, 404)


def test_files_of_models_cannot_be_fetched(address, models):
    for path in (models[0].checkpoint, __file__):
        assert status_of(f"{address}gradio_api/file={path}") == 403


def test_the_page_answers_to_names_of_this_machine_only(address):
    assert status_of(address, Host="attacker.example:80") == 403


def test_other_files_than_uploads_cannot_be_asked_for_as_pictures(address, repository):
    """Send what a forged page could: a path of the server, or an address, in place of an upload."""
    config = json.loads(urllib.request.urlopen(f"{address}config").read())
    (run,) = (
        one
        for one in config["dependencies"]
        if any(t[1] == "click" for t in one["targets"]) and len(one["outputs"]) == 5
    )
    for path in ("/etc/passwd", str(repository / "README.md"), "https://example.org/x.png"):
        upload = dict(path=path, meta=dict(_type="gradio.FileData"))
        data = [upload, "imagenet_swiftformer_xs", "no second model", 0.3]
        body = json.dumps(dict(data=data, fn_index=run["id"], session_hash="forged"))
        request = urllib.request.Request(
            f"{address}gradio_api/queue/join?__theme=light",
            body.encode(),
            {"Content-Type": "application/json"},
        )
        urllib.request.urlopen(request)
        answer = urllib.request.urlopen(f"{address}gradio_api/queue/data?session_hash=forged")
        lines = [line.decode() for line in answer if b"process_completed" in line]
        assert '"success":false' in "".join(lines).replace(" ", "")


def test_an_upload_has_a_largest_size(address, folder):
    limit = 20 * 2**20
    parts = b"--x\r\nContent-Disposition: form-data; name=files; filename=a.png\r\n\r\n"
    body = parts + bytes(limit + 1) + b"\r\n--x--\r\n"
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    request = urllib.request.Request(f"{address}gradio_api/upload", body, kind)
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(request)
    assert error.value.code == 413
