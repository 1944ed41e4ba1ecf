"""``deqflow app``: the page's server. It takes and gives files; what is solved is the jobs' business."""

import socket
import tempfile
import threading
import webbrowser
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from deqflow.app.jobs import EVERYTHING, Jobs
from deqflow.app.options import AppOptions
from deqflow.commands.demo import demo_clips
from deqflow.errors import DeqflowError, one_sentence
from deqflow.visualize import PICTURES

ADDRESS = "127.0.0.1"
"""This machine alone: there is no password, and solving is work."""

STATIC = Path(__file__).parent / "static"

_POLICY = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


class TooLarge(DeqflowError):
    """A file is larger than the app takes."""


def run(options: AppOptions) -> int:
    """Serve the page until Ctrl-C; return the exit code.

    Raises:
        DeqflowError, OSError: the weights, or a port that is taken; said in one sentence.
    """
    listening = listen(options.port)
    model = options.load()
    with listening, tempfile.TemporaryDirectory(prefix="deqflow-app-") as folder:
        examples = {clip.stem: clip for clip in demo_clips()}
        jobs = Jobs(options, model, Path(folder), examples)
        address = f"http://{ADDRESS}:{listening.getsockname()[1]}"
        print(f"deqflow app: {address} (Ctrl-C ends it)", flush=True)
        if options.browser:
            threading.Timer(1, webbrowser.open, [address]).start()
        try:
            uvicorn.Server(uvicorn.Config(application(jobs), log_level="warning")).run(sockets=[listening])
        except KeyboardInterrupt:
            pass  # which is how it ends
        finally:
            jobs.close()
    return 0


def listen(port: int) -> socket.socket:
    """Return a socket that listens on a port of this machine; 0 takes a free one.

    Raises:
        DeqflowError: it is taken, or not ours to take.
    """
    try:
        return socket.create_server((ADDRESS, port))
    except OSError as error:
        raise DeqflowError(f"--port {port}: {error.strerror or error}, another number may do") from error


def application(jobs: Jobs) -> Starlette:
    """Return what answers the page, as ASGI."""
    limits = jobs.options

    async def index(request: Request) -> Response:
        return FileResponse(STATIC / "index.html", headers=_POLICY)

    async def settings(request: Request) -> Response:
        layouts = [{"name": name, "summary": PICTURES[name].summary} for name in jobs.layouts]
        limited = {name: getattr(limits, name) for name in ("max_side", "max_frames", "max_megabytes")}
        return JSONResponse({"layouts": layouts, "examples": list(jobs.examples), **limited})

    async def example(request: Request) -> Response:
        return FileResponse(jobs.examples[request.path_params["name"]])

    async def create(request: Request) -> Response:
        return JSONResponse({"job": jobs.create()})

    async def upload(request: Request) -> Response:
        job, number = jobs[request.path_params["job"]], request.path_params["number"]
        if job.stage != "new" or number not in (1, 2):
            raise DeqflowError("this clip was started already")
        name = request.query_params.get("name", "")
        await _receive(request, job.place(number, name), 10**6 * limits.max_megabytes, job.names[number])
        return JSONResponse({})

    async def start(request: Request) -> Response:
        try:
            wanted = await request.json()
        except (ValueError, RecursionError):
            wanted = None
        jobs.start(jobs[request.path_params["job"]], wanted if isinstance(wanted, dict) else {})
        return JSONResponse({})

    async def described(request: Request) -> Response:
        job = jobs[request.path_params["job"]]
        found = await run_in_threadpool(job.described)
        return JSONResponse({**found, "ahead": jobs.ahead(job) if job.stage == "waiting" else 0})

    async def remove(request: Request) -> Response:
        jobs.remove(request.path_params["job"])
        return JSONResponse({})

    async def result(request: Request) -> Response:
        folder, name = jobs[request.path_params["job"]].results, request.path_params["name"]
        path = folder / name
        if Path(name).name != name or not path.is_file():
            raise KeyError(name)
        download = request.query_params.get("download") is not None or name == EVERYTHING
        return FileResponse(path, filename=name if download else None, headers=_POLICY)

    async def missing(request: Request, error: Exception) -> Response:
        return JSONResponse({"error": "this is not here (any more): drop it again"}, status_code=404)

    async def refused(request: Request, error: Exception) -> Response:
        code = 413 if isinstance(error, TooLarge) else 400
        return JSONResponse({"error": one_sentence(error)}, status_code=code)

    async def not_kept(request: Request, error: Exception) -> Response:
        said = isinstance(error, OSError) and error.strerror
        return JSONResponse({"error": f"the app cannot keep files: {said or 'no reason given'}"}, 500)

    async def hung_up(request: Request, error: Exception) -> Response:
        return Response(status_code=400)  # which nobody reads

    routes: list[tuple[str, str, Callable[[Request], Awaitable[Response]]]] = [
        ("GET", "/", index),
        ("GET", "/settings", settings),
        ("GET", "/examples/{name}", example),
        ("POST", "/jobs", create),
        ("PUT", "/jobs/{job}/uploads/{number:int}", upload),
        ("POST", "/jobs/{job}/start", start),
        ("GET", "/jobs/{job}", described),
        ("DELETE", "/jobs/{job}", remove),
        ("GET", "/jobs/{job}/{name}", result),
    ]
    handlers: dict[Any, Callable[[Request, Exception], Awaitable[Response]]] = {
        KeyError: missing,
        DeqflowError: refused,
        OSError: not_kept,
        ClientDisconnect: hung_up,
    }
    return Starlette(
        routes=[
            *(Route(path, answer, methods=[method]) for method, path, answer in routes),
            Mount("/static", StaticFiles(directory=STATIC)),
        ],
        # A page from elsewhere cannot reach this one: neither by pointing its own name here nor blindly.
        middleware=[
            Middleware(TrustedHostMiddleware, allowed_hosts=[ADDRESS, "localhost"]),
            Middleware(OwnPageOnly),
        ],
        exception_handlers=handlers,
    )


class OwnPageOnly:
    """Refuses what a page from elsewhere sends: browsers say so of whatever changes something."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or let the app answer."""
        headers = Headers(scope=scope) if scope["type"] == "http" else {}
        origin = headers.get("origin")
        if origin is None or urlsplit(origin).netloc == headers.get("host"):
            await self.app(scope, receive, send)
        else:
            refusal = JSONResponse({"error": "only the app's own page may ask for this"}, 403)
            await refusal(scope, receive, send)


async def _receive(request: Request, path: Path, most: int, name: str) -> None:
    """Write what is sent to a file; of more than so many bytes nothing is kept.

    Raises:
        TooLarge: there are more.
    """
    received = 0
    try:
        with path.open("wb") as file:
            async for part in request.stream():
                received += len(part)
                if received > most:
                    raise TooLarge(f"{name} is larger than {most // 10**6} MB, the most that is taken")
                await run_in_threadpool(file.write, part)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
