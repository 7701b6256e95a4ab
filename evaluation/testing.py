"""Open pages in a real headless browser, for tests."""

import json
import shutil
import subprocess
import tempfile
from pathlib import Path
from urllib.parse import unquote

import pytest

_OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--enable-logging=stderr",
)
_WATCH = """<script>
window.troubles = [];
const note = (event) => troubles.push(String(event.message || event.target.src));
addEventListener("error", note, true);
document.addEventListener("securitypolicyviolation", (event) => troubles.push(event.blockedURI));
const pick = (id, value) => {
  const element = document.getElementById(id);
  element.value = value;
  element.dispatchEvent(new Event("change"));
};
const all = (selector, read) => [...document.querySelectorAll(selector)].map(read);
</script>"""
# When all images are there; at once, since the browser hands over the page right after.
_TELL = """<script>
addEventListener("load", () => {
  const told = (() => { %s })();
  const place = document.createElement("pre");
  place.id = "told";
  place.textContent = encodeURIComponent(JSON.stringify({told, troubles}));
  document.body.append(place);
});
</script>"""


def find_browser():
    """Return the program of a Chromium; skips the test where there is none."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if shutil.which(name):
            return name
    pytest.skip("no browser: install chromium (apt-get install chromium) to test the page in one")


def in_browser(page, script, url_hash=""):
    """Return what `script`, the body of a function, returns in a page that was opened from disk.

    It may use `pick` (choose in a select) and `all` (what is read of each element). Fails where the
    page meets an error, is kept from loading something, or says something on the console.
    """
    browser = find_browser()
    html = Path(page).read_text(encoding="utf-8")
    html = html.replace("<head>", f"<head>{_WATCH}", 1)
    head, _, tail = html.rpartition("</body>")
    watched = Path(page).with_name("watched.html")
    watched.write_text(f"{head}{_TELL % script}</body>{tail}", encoding="utf-8")
    with tempfile.TemporaryDirectory() as profile:
        done = subprocess.run(
            [
                browser,
                *_OPTIONS,
                f"--user-data-dir={profile}",
                "--dump-dom",
                watched.as_uri() + url_hash,
            ],
            capture_output=True,
            text=True,
            timeout=300,
        )
    assert 'id="told"' in done.stdout, done.stderr
    told = json.loads(unquote(done.stdout.rpartition('id="told">')[2].partition("</pre>")[0]))
    assert told["troubles"] == []
    assert "CONSOLE" not in done.stderr, done.stderr
    return told["told"]
