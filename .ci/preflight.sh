#!/bin/sh
# Looks before `make` leaps: is there a Python, a Node, a free port, a folder that can be written? Each check ends either
# silently or with one sentence that says what to do. POSIX sh, no dependencies: it runs before anything is installed.
#
#   preflight.sh python           print the Python to use (3.11 or newer, able to make virtual environments)
#   preflight.sh venv FOLDER      the virtual environment there, if any, still works and is new enough
#   preflight.sh node             Node 20.19+ (or 22.12+) and npm are there
#   preflight.sh write FOLDER     FOLDER can be written
#   preflight.sh port HOST PORT   nobody listens there and we may
set -eu

fail() {
    printf 'patchbay: %s\n' "$*" >&2
    exit 1
}

new_enough() {
    "$1" -c 'import sys; raise SystemExit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

check_python() {
    found=""
    for name in ${PYTHON:-python3.13 python3.12 python3.11 python3.14 python3 python}; do
        path=$(command -v "$name" 2>/dev/null) || continue
        if ! new_enough "$path"; then
            found="$found, $name is $("$path" -c 'import platform; print(platform.python_version())' 2>/dev/null || echo broken)"
            continue
        fi
        if ! "$path" -c 'import ensurepip, venv' >/dev/null 2>&1; then
            fail "$path cannot make virtual environments. On Debian and Ubuntu install them with: apt install python3-venv"
        fi
        printf '%s\n' "$path"
        return
    done
    fail "Python 3.11 or newer is needed (none found${found}). Install it with your package manager" \
        "(Debian and Ubuntu: apt install python3 python3-venv; macOS: brew install python@3.13)," \
        "or name one that is not on the PATH: make up PYTHON=/path/to/python3.13"
}

check_venv() {
    [ -e "$1" ] || return 0
    if ! [ -x "$1/bin/python" ] || ! new_enough "$1/bin/python"; then
        fail "The virtual environment in $1 is broken or older than Python 3.11. Remove it with: make clean-venv"
    fi
}

check_node() {
    how="Install it with your package manager or a Node version manager (macOS: brew install node), then try again."
    command -v node >/dev/null 2>&1 ||
        fail "Node 20.19 or newer is needed to build the browser code, and node is not on the PATH. $how"
    version=$(node --version 2>/dev/null | sed 's/^v//')
    major=${version%%.*}
    rest=${version#*.}
    minor=${rest%%.*}
    case "$major.$minor" in
    *[!0-9.]* | . | .*) fail "node --version says '$version', which is no version. $how" ;;
    esac
    if [ "$major" -lt 20 ] || { [ "$major" -eq 20 ] && [ "$minor" -lt 19 ]; } || [ "$major" -eq 21 ] ||
        { [ "$major" -eq 22 ] && [ "$minor" -lt 12 ]; }; then
        fail "Node 20.19+, 22.12+ or newer is needed to build the browser code; this is $version. $how"
    fi
    command -v npm >/dev/null 2>&1 ||
        fail "npm is not on the PATH, though node is. On Debian and Ubuntu: apt install npm"
}

check_write() {
    folder=$1
    while ! [ -e "$folder" ]; do folder=$(dirname "$folder"); done
    if ! [ -d "$folder" ]; then
        fail "$folder is a file where a folder is needed ($1). Move it away, or choose another with PATCHBAY_DATA_DIR."
    fi
    # `test -w` says yes to root on a read-only mount; making a file does not lie.
    probe="$folder/.patchbay-write-test-$$"
    if ! (: >"$probe") 2>/dev/null; then
        fail "No permission to write in $folder. Give it to $(id -un) (chown or chmod), or work in a clone of your own."
    fi
    rm -f "$probe"
}

check_port() {
    python=$(check_python)
    "$python" - "$1" "$2" <<'PYTHON' || exit 1
import errno, socket, sys

host, text = sys.argv[1:3]
stop = lambda sentence: sys.exit("patchbay: " + sentence)
if not text.isdigit() or not 0 < int(text) < 65536:
    stop(f"PORT is {text!r}; it must be a number from 1 to 65535, such as: make up PORT=8001")
port = int(text)
try:
    family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
except OSError:
    stop(f"HOST is {host!r}, which is no address of this machine. Leave it out for 127.0.0.1.")
with socket.socket(family, kind) as probe:
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        probe.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            stop(f"Port {port} is taken by another program (maybe a Patchbay that still runs). "
                 f"Stop it, or choose another: make up PORT={port + 1}")
        if error.errno in (errno.EACCES, errno.EPERM):
            stop(f"Port {port} needs administrator rights. Choose one above 1023: make up PORT=8000")
        stop(f"Cannot listen on {host}:{port}: {error.strerror}. Choose another: make up PORT=8001")
PYTHON
}

case "${1:-}" in
python) check_python ;;
venv) check_venv "$2" ;;
node) check_node ;;
write) check_write "$2" ;;
port) check_port "$2" "$3" ;;
*) fail "preflight.sh: what to check? (python, venv FOLDER, node, write FOLDER, port HOST PORT)" ;;
esac
