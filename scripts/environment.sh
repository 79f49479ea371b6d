# Sourced by demo and test: makes or reuses .venv beside the project and installs into it.
# Nothing is fetched when the environment is already what pyproject.toml asks for.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv="$root/.venv"

find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3 python3.14 python3.13 python3.12 python3.11 python; do
        [ -n "$candidate" ] || continue
        if "$candidate" -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "tileconv needs Python 3.11 or newer with venv; set PYTHON to one" >&2
    return 1
}

# prepare EXTRA: an environment with the project, editable, and one of its extras.
prepare() {
    local extra=$1 python stamp wanted
    if ! "$venv/bin/python" -c '' 2>/dev/null; then
        python=$(find_python) || return 1
        echo "making $venv"
        "$python" -m venv --clear "$venv" || return 1
    fi
    stamp="$venv/tileconv-$extra.stamp"
    wanted="$root $("$venv/bin/python" -VV | tr '\n' ' ') $(cksum <"$root/pyproject.toml")"
    if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
        echo "installing tileconv[$extra] into $venv"
        "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -e "$root[$extra]" || return 1
        echo "$wanted" >"$stamp"
    fi
}
