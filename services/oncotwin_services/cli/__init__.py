"""The command line: `oncotwin COMMAND --help` says what each does."""

from oncotwin_services.cli.main import main

__all__ = ["main"]
