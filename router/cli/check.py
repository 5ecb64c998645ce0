"""`hybrid-router config`: check and show settings before a server sees them."""

from pathlib import Path
from typing import Annotated

import typer

from router.applications import Applications
from router.classifiers import Classifiers
from router.config import load_config, load_secrets, show_config
from router.tariff import check_models, price_table

app = typer.Typer(help="Check and show settings.", no_args_is_help=True)


@app.command("check")
def check(
    config: Annotated[Path, typer.Argument(help="Settings, TOML.")],
) -> None:
    """Check settings as `serve` would, without starting anything.

    Exit code 2 names the first thing that is wrong.

    Example: hybrid-router config check deploy/router.toml
    """
    settings = load_config(config)
    check_models(settings)
    applications = Applications(settings.applications)
    classifiers = Classifiers(settings.routing.classifier)
    price_table(settings)
    secrets = load_secrets(settings)
    print(f"opus   {settings.opus.model}, key {'set' if secrets.opus_api_key else 'missing'}")
    print(f"flash  {settings.flash.model}, key {'set' if secrets.flash_api_key else 'missing'}")
    print(f"classifier {classifiers.current().digest}")
    for name in applications.names():
        application = applications.get(name)
        characters = sum(map(len, application.system)) + sum(
            len(tool.input_schema_json) for tool in application.tools
        )
        print(f"application {name}: {len(application.tools)} tools, about {characters:,} characters shared")
    print("ok")


@app.command("show")
def show(
    config: Annotated[Path | None, typer.Argument(help="Settings, TOML; none shows the defaults.")] = None,
) -> None:
    """Print the whole tree of settings, defaults and environment included; it holds no secrets.

    Example: hybrid-router config show deploy/router.toml
    """
    print(show_config(load_config(config)))
