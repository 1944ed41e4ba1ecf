"""The local page: what its server takes and refuses, and the page as a browser shows it."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import pytest

import deqflow
from deqflow.cli import main
from deqflow.errors import DeqflowError
from deqflow.io import VideoWriter, open_video, write_image

uvicorn = pytest.importorskip("uvicorn", reason="uvicorn of the extra app is missing")

from deqflow.app.jobs import MOST_JOBS, Jobs  # noqa: E402  (what follows needs the extra)
from deqflow.app.options import AppOptions  # noqa: E402
from deqflow.app.server import application, listen  # noqa: E402
from deqflow.commands.demo import demo_clips  # noqa: E402

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WANTED = {"layouts": ["color", "overlay"], "max_side": 96, "max_frames": 3, "numbers": True}


class Page:
    """A running app, and how a visitor without a browser talks to it."""

    def __init__(self, address: str, jobs: Any) -> None:
        self.address, self.jobs = address, jobs

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, bytes]:
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.address}{path}", data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def json(self, method: str, path: str, body: Any = None) -> Any:
        code, said = self.ask(method, path, body)
        assert code == 200, said
        return json.loads(said)

    def error(self, method: str, path: str, body: Any = None) -> tuple[int, str]:
        code, said = self.ask(method, path, body)
        return code, json.loads(said)["error"]

    def submit(self, uploads: dict[str, bytes], **wanted: Any) -> str:
        job = self.json("POST", "/jobs")["job"]
        for number, (name, content) in enumerate(uploads.items(), 1):
            self.json("PUT", f"/jobs/{job}/uploads/{number}?name={name}", content)
        self.json("POST", f"/jobs/{job}/start", WANTED | wanted)
        return job

    def finished(self, job: str) -> dict[str, Any]:
        end = time.monotonic() + 300
        while time.monotonic() < end:
            found = self.json("GET", f"/jobs/{job}")
            if found["stage"] in ("done", "failed"):
                return found
            time.sleep(0.05)
        raise AssertionError("the job does not end")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    options = AppOptions(max_side=200, max_frames=8, max_megabytes=1, port=0)
    model = deqflow.load(device="cpu", precision="float32", steps=3)
    examples = {clip.stem: clip for clip in demo_clips()}
    jobs = Jobs(options, model, tmp_path_factory.mktemp("app"), examples)
    listening = listen(0)
    server = uvicorn.Server(uvicorn.Config(application(jobs), log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    yield Page(f"http://127.0.0.1:{listening.getsockname()[1]}", jobs)
    server.should_exit = True
    thread.join(timeout=60)
    jobs.close()


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Two small images and a clip of three, as files."""
    folder = tmp_path_factory.mktemp("frames")
    texture = np.random.default_rng(0).integers(0, 256, (10, 16, 3), dtype=np.uint8)
    texture = texture.repeat(8, axis=0).repeat(8, axis=1)
    pictures = [texture[8:72, 2 * shift : 2 * shift + 96] for shift in range(3)]
    for number, picture in enumerate(pictures[:2], 1):
        write_image(folder / f"view{number}.png", picture)
    write_image(folder / "small.png", pictures[0][:32])
    write_image(folder / "thin.png", texture[:, :18])
    with VideoWriter(folder / "my clip.mp4", fps=10) as writer:
        for picture in pictures:
            writer.write(picture)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_an_example_gives_pictures_numbers_and_records(page: Page, tmp_path: Path) -> None:
    job = page.submit({}, example="bigbuckbunny_turn")
    found = page.finished(job)
    assert found["error"] == ""
    assert (found["stage"], found["pairs"], found["total"]) == ("done", 2, 2)
    assert found["clip"] == "clip.mp4"
    assert found["pictures"] == {"color": "flow_color.mp4", "overlay": "flow_overlay.mp4"}
    for name, count in (("clip.mp4", 3), ("flow_color.mp4", 2)):
        code, content = page.ask("GET", f"/jobs/{job}/{name}")
        (tmp_path / name).write_bytes(content)
        source = open_video(tmp_path / name)
        assert code == 200 and sum(1 for _ in source.frames()) == count and source.size[1] == 96
    _, content = page.ask("GET", f"/jobs/{job}/deqflow.zip")
    with ZipFile(BytesIO(content)) as archive:
        assert archive.testzip() is None
        names = set(archive.namelist())
        assert {"clip.mp4", "flow_color.mp4", "flow_overlay.mp4", "frames.csv", "manifest.json"} < names
        assert sum(name.endswith(".npz") for name in names) == 2
    assert page.ask("GET", f"/jobs/{job}/clip.mp4", Range="bytes=0-9")[0] == 206  # browsers seek by it


def test_two_frames_give_what_estimate_gives(page: Page, frames: dict[str, bytes], tmp_path: Path) -> None:
    uploads = {name: frames[name] for name in ("view1.png", "view2.png")}
    job = page.submit(uploads, layouts=["arrows"])
    found = page.finished(job)
    assert found["stage"] == "done", found
    assert found["clip"] == "frame_000001.png" and list(found["pictures"]) == ["arrows"]
    assert found["pictures"]["arrows"].endswith(".png")
    for name, content in uploads.items():
        (tmp_path / name).write_bytes(content)
    _, content = page.ask("GET", f"/jobs/{job}/deqflow.zip")
    with ZipFile(BytesIO(content)) as archive:
        (numbers,) = [name for name in archive.namelist() if name.endswith(".npz")]
        with np.load(BytesIO(archive.read(numbers))) as stored:
            flow = stored["flow"]
    model = page.jobs.model
    solver = model.defaults.on_video().solver  # two frames are a short clip here
    expected = model.estimate(tmp_path / "view1.png", tmp_path / "view2.png", solver=solver)
    np.testing.assert_allclose(flow, expected.flow, atol=1e-4)


def test_errors_are_sentences_with_the_visitors_names(page: Page, frames: dict[str, bytes]) -> None:
    cases: dict[str, dict[str, bytes]] = {
        "holiday.mp4": {"holiday.mp4": b"no clip at all"},
        "expected two frames of one size": {
            "view1.png": frames["view1.png"],
            "small.png": frames["small.png"],
        },
        "at least two": {"view1.png": frames["view1.png"]},
        "the frames of thin.png and my upload1.png are 18x80 pixels, scaled down to 14x64": {
            "thin.png": frames["thin.png"],
            "my%20upload1.png": frames["thin.png"],
        },
        "a??b.mp4 is not a video": {"a%0D%0Ab.mp4": b""},
        "<img onerror='x'>é.mp4 is not a video": {"%3Cimg%20onerror='x'%3E%C3%A9.mp4": b"#EXTM3U"},
        f"{'n' * 40}...{'n' * 36}.mp4 is not a video": {f"{'n' * 5000}.mp4": b""},
    }
    for said, uploads in cases.items():
        job = page.submit(uploads, max_side=64)
        found = page.finished(job)
        assert found["stage"] == "failed" and said in found["error"]
        assert not page.jobs[job].folder.exists()
        assert str(page.jobs.folder) not in found["error"] and "upload1.mp4" not in found["error"]


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"layouts": []}, "choose at least one picture"),
        ({"layouts": ["error"]}, "choose at least one picture"),
        ({"layouts": "color"}, "choose at least one picture"),
        ({"max_side": 201}, "max side must be 64 to 200, got 201"),
        ({"max_frames": 9}, "max frames must be 2 to 8, got 9"),
        ({"max_frames": "all"}, "max frames must be 2 to 8, got all"),
        ({"example": "../bigbuckbunny"}, "there is no example"),
        ({"layouts": [{"color": []}]}, "choose at least one picture"),
        ({"example": []}, "there is no example []"),
        ({}, "drop a clip or two frames first"),
    ],
)
def test_what_cannot_be_is_refused(page: Page, wanted: dict[str, Any], said: str) -> None:
    job = page.json("POST", "/jobs")["job"]
    code, error = page.error("POST", f"/jobs/{job}/start", WANTED | wanted)
    assert code == 400 and said in error
    assert page.json("GET", f"/jobs/{job}")["stage"] == "new"


@pytest.mark.parametrize("body", [b"{", b"null", b"[1]", b"\xff", 100_000 * b"["])
def test_a_body_that_asks_for_nothing_is_refused(page: Page, body: bytes) -> None:
    job = page.json("POST", "/jobs")["job"]
    code, said = page.error("POST", f"/jobs/{job}/start", body)
    assert code == 400 and "choose at least one picture" in said


def test_what_is_downloaded_names_files_as_the_visitor_does(page: Page, frames: dict[str, bytes]) -> None:
    two = {"a%22b.png": frames["view1.png"], "view2.png": frames["view2.png"]}
    for uploads, called in (
        ({"my%20clip.mp4": frames["my clip.mp4"]}, "my clip.mp4"),
        (two, 'a"b.png and view2.png'),
    ):
        job = page.submit(uploads)
        assert page.finished(job)["error"] == ""
        results = page.jobs[job].results
        written = (results / "manifest.json").read_text("utf-8")
        source = json.loads(written)["source"]
        assert source["name"] == called
        assert " and ".join(file["path"] for file in source["files"]) == called
        assert str(page.jobs.folder) not in written and "upload" not in written
        assert list(page.jobs[job].folder.iterdir()) == [results]  # what was dropped is not kept for longer


def test_a_damaged_clip_gives_flow_and_a_note(page: Page, frames: dict[str, bytes], tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "clip.mkv", fps=10) as writer:
        for shift in range(0, 24, 2):
            writer.write(np.random.default_rng(shift).integers(0, 256, (64, 96, 3), dtype=np.uint8))
    whole = (tmp_path / "clip.mkv").read_bytes()
    for _ in range(2):  # of equal warnings Python shows the first only
        found = page.finished(page.submit({"cut.mkv": whole[: len(whole) // 2]}, max_frames=8))
        assert found["stage"] == "done" and found["pairs"] > 0
        (note,) = found["notes"]
        assert note.startswith("cut.mkv is damaged: ")
    assert page.finished(page.submit({"whole.mp4": frames["my clip.mp4"]}))["notes"] == []


def test_a_temporary_folder_that_vanishes_is_told(page: Page, frames: dict[str, bytes]) -> None:
    """Some systems clear theirs while programs run."""
    done = page.submit({"clip.mp4": frames["my clip.mp4"]})
    assert page.finished(done)["stage"] == "done"
    job = page.json("POST", "/jobs")["job"]
    page.json("PUT", f"/jobs/{job}/uploads/1?name=clip.mp4", frames["my clip.mp4"])
    shutil.rmtree(page.jobs.folder)
    code, said = page.error("PUT", f"/jobs/{job}/uploads/1?name=clip.mp4", frames["my clip.mp4"])
    assert code == 500 and said.startswith("the app cannot keep files: ")
    for path in (done, f"{done}/clip.mp4"):
        assert page.error("GET", f"/jobs/{path}") == (404, "this is not here (any more): drop it again")
    page.json("POST", f"/jobs/{job}/start", WANTED)
    failed = page.finished(job)["error"]
    assert failed and str(page.jobs.folder) not in failed and "Errno" not in failed
    assert page.finished(page.submit({"clip.mp4": frames["my clip.mp4"]}))["stage"] == "done"


def test_of_a_file_whose_sender_hangs_up_nothing_is_kept(
    page: Page, caplog: pytest.LogCaptureFixture
) -> None:
    job = page.json("POST", "/jobs")["job"]
    host, port = page.address.removeprefix("http://").split(":")
    head = f"PUT /jobs/{job}/uploads/1?name=a.mp4 HTTP/1.1\r\nHost: {host}\r\nContent-Length: 900000\r\n\r\n"
    path = page.jobs[job].folder / "upload1.mp4"
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(head.encode() + bytes(100_000))
        until(path.exists)
    until(lambda: not path.exists())
    assert "Exception" not in caplog.text


def test_of_a_file_that_is_too_large_nothing_is_kept(page: Page) -> None:
    job = page.json("POST", "/jobs")["job"]
    code, said = page.error("PUT", f"/jobs/{job}/uploads/1?name=long.mp4", bytes(10**6 + 1))
    assert (code, said) == (413, "long.mp4 is larger than 1 MB, the most that is taken")
    assert [path.name for path in page.jobs[job].folder.iterdir()] == ["results"]


def test_names_of_files_lead_nowhere(page: Page) -> None:
    job = page.json("POST", "/jobs")["job"]
    page.json("PUT", f"/jobs/{job}/uploads/1?name=..%2F..%2Fx.p%2Fy", b"")
    assert [path.name for path in page.jobs[job].folder.iterdir() if path.is_file()] == ["upload1"]
    for path in ("../upload1", "..%2Fupload1", "%2e%2e/upload1", "nothing.mp4"):
        assert page.ask("GET", f"/jobs/{job}/{path}")[0] == 404


def test_two_visitors_do_not_mix(page: Page, frames: dict[str, bytes]) -> None:
    clip = {"my%20clip.mp4": frames["my clip.mp4"]}
    first, second = page.submit(clip), page.submit({}, example="bigbuckbunny_turn", layouts=["color"])
    assert first != second and len(first) >= 20
    done = [page.finished(job) for job in (first, second)]
    assert [list(found["pictures"]) for found in done] == [["color", "overlay"], ["color"]]
    contents = [page.ask("GET", f"/jobs/{job}/clip.mp4")[1] for job in (first, second)]
    assert contents[0] != contents[1]
    page.json("DELETE", f"/jobs/{first}")
    assert page.ask("GET", f"/jobs/{first}")[0] == 404
    assert page.json("GET", f"/jobs/{second}")["stage"] == "done"
    assert page.ask("GET", f"/jobs/{first[:-1]}x")[0] == 404


def test_a_job_that_is_canceled_ends_and_leaves_no_file(page: Page) -> None:
    job = page.submit({}, example="bigbuckbunny", max_frames=8)
    kept = page.jobs[job]
    page.json("DELETE", f"/jobs/{job}")
    page.finished(page.submit({}, example="bigbuckbunny_turn", max_frames=2))  # which comes after it
    assert kept.stage == "failed" and not kept.folder.exists()


def test_old_jobs_make_room(page: Page) -> None:
    names = [page.json("POST", "/jobs")["job"] for _ in range(MOST_JOBS + 2)]
    assert page.ask("GET", f"/jobs/{names[1]}")[0] == 404
    assert page.ask("GET", f"/jobs/{names[2]}")[0] == 200
    assert len(list(page.jobs.folder.iterdir())) == MOST_JOBS


def test_pages_from_elsewhere_are_refused(page: Page) -> None:
    """They could not read the answers, but fill the disk and push out the visitor's jobs."""
    for origin in ("http://somewhere.example", "null", f"{page.address}1"):
        assert page.ask("POST", "/jobs", Origin=origin)[0] == 403
    assert page.ask("POST", "/jobs", Origin=page.address)[0] == 200


def test_other_names_for_this_machine_are_refused(page: Page) -> None:
    assert page.ask("GET", "/settings", Host="somewhere.example")[0] == 400
    assert page.ask("GET", "/settings", Host="localhost")[0] == 200


def test_a_port_that_is_taken(page: Page, capsys: pytest.CaptureFixture[str]) -> None:
    port = int(page.address.rpartition(":")[2])
    assert main(["app", "--port", str(port), "--no-browser"]) == 2
    assert f"--port {port}: " in capsys.readouterr().err
    for option, value in (("--port", "70000"), ("--max-frames", "1"), ("--max-side", "63")):
        assert main(["app", option, value]) == 2
        assert option in capsys.readouterr().err
    with pytest.raises(DeqflowError):
        listen(port)


def shown(tab: Any, condition: str) -> None:
    """Wait until JavaScript is true in the page.

    Its policy forbids scripts made of strings, and so the second look that ``wait_for_function`` takes.
    """
    deadline = time.monotonic() + 120
    while not tab.evaluate(condition):
        assert time.monotonic() < deadline, condition
        tab.wait_for_timeout(50)


@pytest.mark.slow
def test_clicking_through_it_in_chromium(page: Page, frames: dict[str, bytes], tmp_path: Path) -> None:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright of the dev extra is missing")
    if CHROMIUM is None:
        pytest.skip("no Chromium to open the page with (Debian: apt-get install chromium)")
    for name, content in frames.items():
        (tmp_path / name).write_bytes(content)
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        tab = browser.new_page(viewport={"width": 1280, "height": 1100})
        complaints: list[str] = []
        tab.on("console", lambda message: complaints.append(message.text))
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        requests: list[str] = []
        tab.on("request", lambda request: requests.append(request.url))
        tab.set_default_timeout(120_000)
        tab.goto(page.address)
        tab.locator("#examples button").nth(1).wait_for()
        assert tab.locator("#go").is_disabled()

        tab.get_by_role("button", name="bigbuckbunny_turn").click()
        tab.get_by_label("overlay").check()
        tab.locator("#max_side").fill("128")
        tab.locator("#max_frames").fill("4")
        tab.screenshot(path=tmp_path / "chosen.png")
        tab.get_by_role("button", name="Estimate flow").click()
        tab.locator("#results").wait_for(state="visible")
        assert tab.locator("figcaption").all_inner_texts() == [
            f"{name}\ndownload" for name in ("frames", "color", "overlay")
        ]
        shown(tab, "[...document.querySelectorAll('figure video')].every(video => video.readyState >= 2)")
        tab.get_by_role("button", name="Play all").click()
        shown(tab, "[...document.querySelectorAll('figure video')].every(video => video.played.length > 0)")
        tab.screenshot(path=tmp_path / "example.png", full_page=True)
        with tab.expect_download() as download:
            tab.get_by_role("link", name="Download everything").click()
        with ZipFile(download.value.path()) as archive:
            assert "flow_overlay.mp4" in archive.namelist()

        tab.locator("#files").set_input_files([tmp_path / "view1.png", tmp_path / "view2.png"])
        assert tab.locator("#chosen").inner_text() == "view1.png and view2.png"
        tab.get_by_role("button", name="Estimate flow").click()
        tab.locator("figure img").nth(2).wait_for()
        shown(tab, "[...document.querySelectorAll('figure img')].every(i => i.naturalWidth == 96)")
        tab.screenshot(path=tmp_path / "frames.png", full_page=True)

        broken = tmp_path / "<img src=x onerror='document.title=1'>é.mp4"
        broken.write_bytes(b"not a clip")
        tab.locator("#files").set_input_files(broken)
        tab.get_by_role("button", name="Estimate flow").click()
        tab.get_by_role("alert").wait_for(state="visible")
        assert broken.name in tab.get_by_role("alert").inner_text()
        assert tab.title() == "deqflow"
        tab.screenshot(path=tmp_path / "broken.png", full_page=True)
        tab.locator("#files").set_input_files(tmp_path / "view1.png")
        assert tab.get_by_role("alert").is_hidden()
        tab.get_by_role("button", name="Estimate flow").click()
        tab.get_by_text("at least two").wait_for()
        assert complaints == []
        assert all(url.startswith((page.address, "data:", "blob:")) for url in requests)
        browser.close()


@pytest.mark.parametrize("ended_by", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_the_command_serves_until_it_is_ended(ended_by: signal.Signals, tmp_path: Path) -> None:
    """In the middle of a clip, too; the temporary folder goes with it."""
    environment = os.environ | {"TMPDIR": str(tmp_path), "PYTHONPATH": str(Path(deqflow.__file__).parents[1])}
    command = [sys.executable, "-m", "deqflow", "app", "--port", "0", "--no-browser"]
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        told = re.search(r"http://127\.0\.0\.1:\d+", process.stdout.readline())
        assert told is not None
        visitor = Page(told[0], None)
        job = visitor.submit({}, example="bigbuckbunny", max_frames=300)
        while visitor.json("GET", f"/jobs/{job}")["pairs"] < 1:
            time.sleep(0.05)
        process.send_signal(ended_by)
        _, errors = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 0, errors
    assert "Traceback" not in errors
    assert list(tmp_path.iterdir()) == []
