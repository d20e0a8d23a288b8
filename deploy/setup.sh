# shellcheck shell=bash
# Set-up for deploy/quickstart and tests/run: uses what is there, installs what is missing, shows what it does.
# To be sourced with $program set, the name its errors start with. Sets $root, the project; makes $root/.venv.

: "${program:?}"
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=${XDG_CACHE_HOME:-${HOME:-$root}/.cache}/subaccount-provisioner
scratch=$(mktemp -d)
spinner=
uv=
trap clean_up EXIT

clean_up() {
    stop_spinner
    rm -rf "$scratch"
}

fail() {
    printf '%s: %s\n' "$program" "$1" >&2
    exit 1
}

# step TEXT COMMAND...: the command's output is kept and shown only if it fails.
step() {
    local text=$1 began=$SECONDS status=0
    shift
    if [[ -t 1 ]]; then
        spin "$text" &
        spinner=$!
    else
        printf '%s ...\n' "$text"
    fi
    "$@" >"$scratch/log" 2>&1 </dev/null || status=$?
    stop_spinner
    if ((status)); then
        tail -n 15 "$scratch/log" >&2
        return "$status"
    fi
    printf '%s: done in %s s\n' "$text" $((SECONDS - began))
}

spin() {
    local began=$SECONDS
    while printf '\r%s ... %s s ' "$1" $((SECONDS - began)); do sleep 1; done
}

stop_spinner() {
    [[ $spinner ]] || return 0
    kill "$spinner"
    wait "$spinner" || true
    spinner=
    printf '\r\033[K'
} 2>/dev/null

# First the one of .venv, which a sync with another Python would throw away; then the system's, for what stands
# first on the PATH may be a shim of nothing.
find_python() {
    local candidate
    for candidate in "$root"/.venv/bin/python /usr/bin/python3{,.1{1..9}} python3{,.1{1..9}}; do
        if timeout 10 "$candidate" -I -c 'import sys, asyncio, ssl; sys.exit(sys.version_info < (3, 11))'; then
            python=$candidate
            return
        fi
    done
    return 1
} >/dev/null 2>&1

find_uv() {
    local candidate
    if [[ $uv ]]; then return; fi
    for candidate in uv "$cache/uv"; do
        if timeout 10 "$candidate" sync --help | grep -e --no-default-groups >/dev/null; then
            uv=$candidate
            return
        fi
    done
    return 1
} 2>/dev/null

is_there() {
    case $1 in
        rabbitmq-server) [[ -x /usr/lib/rabbitmq/bin/rabbitmq-server ]] ;;
        nodejs) command -v node ;;
        systemd) command -v systemd-analyze ;;
        python3-venv) /usr/bin/python3 -I -c 'import ensurepip' 2>&1 ;;
        *) command -v "$1" ;;
    esac
} >/dev/null

# Sets $missing to the packages that bring a Python, a way to get uv, and the ones named.
find_missing() {
    local package
    missing=()
    if ! find_python; then
        missing+=(python3 python3-venv)
        # Ubuntu 22.04 calls a newer Python by its number.
        if grep -qs jammy /etc/os-release; then missing=(python3.11 python3.11-venv); fi
    elif ! find_uv && ! has_module ensurepip && ! has_module pip; then
        missing+=("$("$python" -I -c 'import sys; print("python3.%d-venv" % sys.version_info[1])')")
    fi
    for package; do
        if ! is_there "$package"; then missing+=("$package"); fi
    done
}

has_module() { "$python" -I -c "import $1"; } 2>/dev/null

can_install() {
    command -v apt-get >/dev/null || return 1
    ((EUID)) || return 0
    command -v sudo >/dev/null || return 1
    sudo -n true 2>/dev/null || { [[ -t 0 ]] && sudo -v -p "[sudo] password for %u, to install $*: "; }
}

install_packages() {
    local become_root=()
    if ((EUID)); then become_root=(sudo); fi
    "${become_root[@]}" bash -c "$(declare -f install_as_root); install_as_root \"\$@\"" bash "$@"
}

install_as_root() {
    set -eu
    export DEBIAN_FRONTEND=noninteractive
    local get=(apt-get -y -o DPkg::Lock::Timeout=300) services=(rabbitmq-server.service)
    command -v epmd || services+=(epmd.service epmd.socket)

    # Debian starts a service once it is installed, now and at every boot; this one would hold port 5672.
    if [[ ! -e /usr/sbin/policy-rc.d ]]; then
        trap 'rm -f /usr/sbin/policy-rc.d' EXIT
        printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
        chmod 755 /usr/sbin/policy-rc.d
    fi
    "${get[@]}" install --no-install-recommends "$@" ||
        { "${get[@]}" update && "${get[@]}" install --no-install-recommends "$@"; }
    if [[ " $* " == *" rabbitmq-server "* ]] && command -v systemctl; then
        systemctl disable "${services[@]}" || true
    fi
}

install_uv() {
    local pip=("$python" -I -m pip)
    if has_module ensurepip; then
        "$python" -I -m venv "$scratch/venv" || return
        pip=("$scratch/venv/bin/python" -I -m pip)
    fi
    PIP_USER=0 "${pip[@]}" install --disable-pip-version-check --target "$scratch/uv" uv &&
        mkdir -p "$cache" &&
        mv "$scratch/uv/bin/uv" "$cache/uv"
}

sync_project() {
    env -u VIRTUAL_ENV -u UV_PROJECT_ENVIRONMENT UV_PYTHON_DOWNLOADS=never \
        "$uv" sync --project "$root" --python "$python" --frozen "$@"
}

# ensure_packages ALTERNATIVE PACKAGE...: the alternative is what else can be done if it is RabbitMQ alone that is
# missing and cannot be installed.
ensure_packages() {
    local alternative=$1
    shift
    find_missing "$@"
    if ! ((${#missing[@]})); then return; fi
    if [[ ${missing[*]} != rabbitmq-server ]]; then alternative=; fi
    if ! can_install "${missing[@]}"; then
        fail "this user cannot install ${missing[*]}: run 'apt-get install ${missing[*]}' as root$alternative"
    fi
    step "Installing ${missing[*]}" install_packages "${missing[@]}" ||
        fail "apt-get failed (see above): install ${missing[*]}$alternative"
    find_python || fail "this needs Python 3.11 or newer, and apt-get has none: install one and run this again"
}

# ensure_project SYNC-OPTION...
ensure_project() {
    if ! find_uv; then
        step "Installing uv" install_uv || fail "uv cannot be installed, see above"
        find_uv || fail "the uv that was installed does not run on this machine"
    fi
    step "Python packages" sync_project "$@" || fail "the Python packages cannot be installed, see above"
}
