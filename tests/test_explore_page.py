"""The built page is what its sources say, small, and asks nobody for anything."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from wasmjax.explore.site import files

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "wasmjax" / "explore" / "page"


def test_the_page_is_small():
    assert sum(map(len, files().values())) < 1 << 20


def test_classic_scripts_and_nothing_from_elsewhere():
    found = files()
    html = found["index.html"].decode()
    assert 'type="module"' not in html and not re.search(r"(src|href)=\"(https?:)?//", html)
    assert "unsafe-inline" not in html and "default-src 'none'" in html
    css = found["explore.css"].decode()
    assert "url(" not in css and "@import" not in css
    script = found["explore.js"].decode()
    addresses = set(re.findall(r"https?://[\w./-]+", script))
    assert addresses <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xhtml",
        "http://www.w3.org/1999/xlink",
        "http://www.w3.org/XML/1998/namespace",
        "http://www.w3.org/2000/xmlns/",
    }


def test_our_sources_set_text_as_text():
    for path in PAGE.glob("src/**/*.ts"):
        text = path.read_text()
        assert "innerHTML" not in text and "insertAdjacentHTML" not in text, path


def test_the_lock_file_names_no_host():
    lock = json.loads((PAGE / "package-lock.json").read_text())
    packages = {name: entry for name, entry in lock["packages"].items() if name}
    assert packages
    for name, entry in packages.items():
        assert "resolved" not in entry and entry["integrity"].startswith("sha512-"), name
    manifest = json.loads((PAGE / "package.json").read_text())
    versions = [*manifest["dependencies"].values(), *manifest["devDependencies"].values()]
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", version) for version in versions)


@pytest.mark.browser
def test_building_again_gives_the_same_bytes(tmp_path):
    if shutil.which("npm") is None:
        pytest.skip("no npm: the page cannot be built here")
    done = subprocess.run(
        [ROOT / "scripts" / "build_page", tmp_path / "out"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    built = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert built == files()
