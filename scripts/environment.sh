# Sourced by demo and test: makes or reuses an environment beside the project and installs into it.
# Without more it is .venv; PYTHON=python3.13 has one of its own, .venv-3.13, and so have the lowest
# packages that pyproject.toml allows: .venv-lowest, .venv-3.13-lowest.
# Nothing is fetched when the environment is already what pyproject.toml asks for.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

can_run() { # can_run PYTHON: it is new enough, and makes environments
    "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

version_of() {
    "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])'
}

find_python() {
    local candidate
    if [ -n "${PYTHON:-}" ]; then
        can_run "$PYTHON" && echo "$PYTHON" && return
        echo "PYTHON=$PYTHON: is no Python 3.11 or newer with venv" >&2
        return 1
    fi
    for candidate in python3 python3.14 python3.13 python3.12 python3.11 python; do
        can_run "$candidate" && echo "$candidate" && return
    done
    echo "tileconv needs Python 3.11 or newer with venv; set PYTHON to one" >&2
    return 1
}

# newer_python PYTHON: the newest one that numba has wheels for, on the PATH or installed beside
# PYTHON or by pyenv, if it is newer than PYTHON; otherwise nothing.
newer_python() {
    local version candidate beside
    beside=$(dirname "$("$1" -c 'import sys; print(sys.base_prefix)')")
    for version in 3.14 3.13 3.12; do
        [ "$version" != "$(version_of "$1")" ] || return 0
        for candidate in "python$version" \
            {"$beside","${PYENV_ROOT:-$HOME/.pyenv}/versions"}/*/bin/"python$version"; do
            can_run "$candidate" && echo "$candidate" && return
        done
    done
}

# prepare EXTRA [--lowest]: an environment with the project, editable, and one of its extras.
prepare() {
    local extra=$1 lowest=${2:-} python stamp wanted constraints=()
    python=$(find_python) || return 1
    venv="$root/.venv${PYTHON:+-$(version_of "$python")}${lowest:+-lowest}"
    if ! "$venv/bin/python" -c '' 2>/dev/null; then
        echo "making $venv"
        "$python" -m venv --clear "$venv" || return 1
    fi
    stamp="$venv/tileconv-$extra.stamp"
    wanted="$root $("$venv/bin/python" -VV | tr '\n' ' ') $(cksum <"$root/pyproject.toml")"
    if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
        echo "installing tileconv[$extra] into $venv"
        if [ -n "$lowest" ]; then
            "$venv/bin/python" "$root/scripts/lowest.py" >"$venv/lowest.txt" || return 1
            constraints=(--constraint "$venv/lowest.txt")
        fi
        "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
            ${constraints[@]+"${constraints[@]}"} -e "$root[$extra]" || return 1
        echo "$wanted" >"$stamp"
    fi
}
