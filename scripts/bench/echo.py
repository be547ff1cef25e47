"""What the enrolment calls and the public files could cost at the least: the same servers, no work.

    echo.py --tls DIR --anchor FILE --answers FILE --files DIR --api PORT --public PORT

On the API port the two calls for one device, over the service's own TLS and connection protocol,
through FastAPI with the models of the service: the body is validated, the answer is a recorded one,
validated and rendered. On the public port the files of a directory, read anew for every request.
Prints a line when both are served; ends with SIGTERM.
"""

import argparse
import asyncio
import json
import signal
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from kms.api import answer_schemas as answers
from kms.api import schemas
from kms.api.app import HttpLimits
from kms.api.middleware import Observed
from kms.api.server import Listener, run, serve
from kms.api.tls import ServerTls
from kms.logs import configure
from kms.metrics import Metrics


def create_echo(ordered: dict[str, Any], certified: dict[str, Any]) -> FastAPI:
    """The two calls, answered with what the service once answered."""
    app = FastAPI(docs_url=None, redoc_url=None)

    @app.post("/v1/enrolments", status_code=201, response_model=answers.EnrolmentAnswer)
    async def order(body: schemas.EnrolmentBody) -> Any:  # noqa: ARG001 - validated, then dropped
        return ordered

    @app.post(
        "/v1/enrolments/{enrolment}/proofs", status_code=201, response_model=answers.CertifiedAnswer
    )
    async def prove(enrolment: str, body: schemas.ProofsBody) -> Any:  # noqa: ARG001 - as above
        return certified

    return app


def create_files(directory: Path) -> ASGIApp:
    """Files of a directory behind what stands before every request of the public listener.

    They are read in the event loop: a thread for each would cost more.
    """

    async def read(request: Request) -> Response:
        content = (directory / request.path_params["name"]).read_bytes()
        return Response(content, media_type="application/octet-stream")

    app = Starlette(routes=[Route("/{name:str}", read)])
    metrics = Metrics()
    return Observed(app, "public", metrics, metrics.refused, HttpLimits().concurrency)


async def _serve(arguments: argparse.Namespace) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    recorded = json.loads(arguments.answers.read_bytes())
    anchor = arguments.anchor.read_bytes()
    tls = ServerTls(arguments.tls / "server.pem", arguments.tls / "server.key", anchor)
    app = create_echo(recorded["ordered"], recorded["certified"])
    files = create_files(arguments.files)
    await serve(
        [
            Listener("api", app, "127.0.0.1", arguments.api, tls=tls.context),
            Listener("public", files, "127.0.0.1", arguments.public),
        ],
        stop,
        ready=lambda _ports: print("ready", flush=True),
    )


def main() -> None:
    """Serve until SIGTERM; every request is logged, as the service does."""
    configure("echo")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tls", type=Path, required=True)
    parser.add_argument("--anchor", type=Path, required=True)
    parser.add_argument("--answers", type=Path, required=True)
    parser.add_argument("--files", type=Path, required=True)
    parser.add_argument("--api", type=int, required=True)
    parser.add_argument("--public", type=int, required=True)
    run(_serve(parser.parse_args()))


if __name__ == "__main__":
    main()
