#!/usr/bin/env python
"""Django's command line. PATCHBAY_MODE (embedded | services | test) chooses the settings; embedded is the default."""

import sys

from interp_app.mode import configure


def main() -> None:
    configure()
    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
