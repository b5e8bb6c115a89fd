"""Start ``mailboat``, or say what to install where the controller's packages are missing.

Both commands come with every installation. On a device, which has ``mailboat[agent]`` alone, the
traceback of a failed import would say nothing to whoever typed the wrong one.
"""

import sys

from mailboat_controller import garbage

EXIT_FAILURE = 1


def main() -> None:
    garbage.look_seldom()
    try:
        from mailboat_schemas.key_services import KEY_SERVICES, leave_out

        leave_out(KEY_SERVICES)
        from mailboat_controller import cli
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("mailboat_"):
            raise  # ours to mend, not a package that was left out
        sys.stderr.write(
            f"mailboat: {error.name} is missing: this is mailboat without its controller part.\n"
            "next step: pip install 'mailboat[controller]'. On a device the command is "
            "mailboat-agent.\n"
        )
        sys.exit(EXIT_FAILURE)
    cli.main()


if __name__ == "__main__":
    main()
