"""A page with small random models, served once for all tests, and browsers to use it."""

import os
import shutil
import socket
import time
from pathlib import Path

import pytest

# the oldest versions that pyproject.toml admits are too old for Gradio, which is an extra
pytest.importorskip("gradio", reason="needs the extra playground")

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException, TimeoutException
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from hybrid_backbones.mini.preset import apply_mini
from hybrid_backbones.playground.models import Model, Models
from hybrid_backbones.playground.page import build, private_uploads, serving

# a small network of each kind, as on the mini set
KINDS = ("imagenet_swiftformer_xs", "fpn_uniformer_xxs", "maskrcnn_uniformer_xxs")
KINDS += ("imagenet_biformer_t", "locformer_swin_t")
# seconds that a busy machine may take for an answer
PATIENCE = 60
# set in .ci/run, where a browser must be there
REQUIRED = "HB_BROWSER_REQUIRED"


def make_model(repository, folder, kind):
    """Save a random network, which finds something everywhere, and serve it."""
    cfg = Config.fromfile(repository / f"configs/{kind}.py")
    apply_mini(cfg, repository / "data/mini")
    torch.manual_seed(0)
    settings = cfg.model.copy()
    settings.setdefault("data_preprocessor", cfg.get("data_preprocessor"))
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        net = MODELS.build(settings)
    for name, weight in net.named_parameters():
        # so that labels and scores differ, although features hardly do
        if name.endswith(("fc.weight", "head.weight", "fc_cls.weight", "conv_seg.weight")):
            torch.nn.init.normal_(weight, std=10)
    path = folder / f"{kind}.pth"
    torch.save(dict(state_dict=net.state_dict()), path)
    return Model(kind, cfg, path)


@pytest.fixture(scope="session")
def models(repository, mini_root, tmp_path_factory):
    """Random models of all tasks, and one whose checkpoint is missing."""
    folder = tmp_path_factory.mktemp("playground")
    served = [make_model(repository, folder, kind) for kind in KINDS]
    missing = Model("missing", served[0].cfg, folder / "none.pth")
    return Models([*served, missing])


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session")
def uploads():
    """The folder of uploads and results."""
    with private_uploads() as folder:
        yield folder


@pytest.fixture(scope="session")
def address(repository, models, uploads):
    """Address of the page, which is served in this process."""
    before = Path.cwd()
    os.chdir(repository)
    try:
        with serving(build(models), free_port()) as address:
            yield address
    finally:
        os.chdir(before)


def find_chromium():
    """Return the programs of the browser and its driver; without them, skip or fail."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    driver = shutil.which("chromedriver")
    if browser and driver:
        return browser, driver
    reason = "needs Debian's packages chromium and chromium-driver"
    if os.environ.get(REQUIRED):
        pytest.fail(reason)
    return pytest.skip(reason)


def start_browser(width=1280, height=1000):
    """Start Chromium, which logs its requests."""
    browser, driver = find_chromium()
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage"):
        options.add_argument(f"--{flag}")
    options.add_argument(f"--window-size={width},{height}")
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    return webdriver.Chrome(options, webdriver.ChromeService(driver))


class Visit:
    """A page in a browser, used as a person would.

    Args:
        browser: browser to use.
        address: address of the page.
    """

    def __init__(self, browser, address):
        self.browser = browser
        browser.get(address)
        self.until(lambda: self.find("#detect-run"))

    def until(self, condition, what="the page"):
        """Wait until a condition holds, and return its value."""
        # the page may draw an element anew while it is looked at
        waiting = WebDriverWait(self.browser, PATIENCE, 0.1, [StaleElementReferenceException])
        try:
            return waiting.until(lambda _: condition(), what)
        except TimeoutException:
            self.screenshot("failed")
            raise

    def find(self, selector):
        """Return the first visible element of a CSS selector, or None."""
        found = self.browser.find_elements(By.CSS_SELECTOR, selector)
        return next((element for element in found if element.is_displayed()), None)

    def open_tab(self, name):
        """Open a tab by its title; on a phone it may be in the menu of those that have no room."""
        tabs = self.browser.find_elements(By.CSS_SELECTOR, "button[role=tab]")
        shown = [tab for tab in tabs if tab.is_displayed() and tab.text == name]
        if not shown:
            self.find(".overflow-menu > button").click()
            entries = self.browser.find_elements(By.CSS_SELECTOR, ".overflow-dropdown button")
            shown = [entry for entry in entries if entry.text == name]
        shown[0].click()
        self.until(lambda: self._is_open(name))

    def _is_open(self, name):
        # the text of what is hidden is empty, unlike its content
        chosen = self.browser.find_elements(By.CSS_SELECTOR, "button[role=tab][aria-selected=true]")
        return any(tab.get_attribute("textContent").strip() == name for tab in chosen)

    def upload(self, field, path):
        """Choose a file in a field for pictures."""
        selector = f"#{field} input[type=file]"
        (chooser,) = self.browser.find_elements(By.CSS_SELECTOR, selector)
        chooser.send_keys(str(path))

    def wait_for_picture(self, field):
        """Return the picture in a field when it has been loaded."""
        shown = f"#{field} img"

        def loaded():
            image = self.find(shown)
            script = "return arguments[0].complete && arguments[0].naturalWidth > 0"
            return image if image and self.browser.execute_script(script, image) else None

        return self.until(loaded, shown)

    def choose(self, field, text):
        """Choose a value in a drop-down list."""
        entry = self.find(f"#{field} input")
        entry.click()

        def press():
            for option in self.browser.find_elements(By.CSS_SELECTOR, "[role=option]"):
                if option.is_displayed() and text in option.text:
                    ActionChains(self.browser).move_to_element(option).click().perform()
                    return True
            return False

        self.until(press, text)
        self.until(lambda: text in entry.get_attribute("value"), text)
        # a list fades out, and must not be taken for that of the next field
        self.until(lambda: self.find("[role=option]") is None, "the list to close")

    def click(self, name):
        """Press a button, scrolled into view as a person would."""
        button = self.find(f"#{name}")
        self.browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", button)
        button.click()

    def text(self, name):
        """Return the text that an element shows, or an empty string."""
        return self.text_of(f"#{name}")

    def text_of(self, selector):
        """Return the text of the first visible element of a CSS selector, or an empty string."""
        element = self.find(selector)
        return element.text if element else ""

    def wait_for_text(self, name, part):
        """Wait until an element shows a text, and return all that it shows."""
        return self.until(lambda: (text := self.text(name)) and part in text and text, part)

    def sentence(self):
        """Wait for the message of a mistake, close it, and return its text."""
        # a message that is fading in has no text yet
        text = self.until(lambda: self.text_of("[data-testid=toast-text]"), "a message")
        self.find("[data-testid=toast-close]").click()
        self.until(lambda: self.find("[data-testid=toast-body]") is None)
        return text

    def screenshot(self, name):
        """Save a picture of the window where HB_SCREENSHOTS says, to be looked at."""
        if folder := os.environ.get("HB_SCREENSHOTS"):
            time.sleep(0.5)
            self.browser.save_screenshot(str(Path(folder) / f"{name}.png"))


@pytest.fixture(scope="module")
def browser():
    """A browser of the width of a desk, which does not go on working beside the tests of others."""
    browser = start_browser()
    yield browser
    browser.quit()


@pytest.fixture
def visit(browser, address):
    """A new visit of the page."""
    return Visit(browser, address)
