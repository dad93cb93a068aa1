# shellcheck shell=bash
# Checks and installs what the scripts need on this machine: Debian packages, a Rust toolchain, a
# running Docker engine, and the base image. Sourced by `demo`, `test`, and `endure`, after
# progress.sh.

: "${root:?is set by the script that sources this}" "${log_dir:?is set by progress.sh}"
script_arguments=("$@")
base_image=debian:bookworm-slim
docker_problem=""                         # why Docker cannot be used, if so
docker_pid=""                             # the engine that this script started
docker_unit=${LIFECYCLE_DOCKER_UNIT:-no}  # yes: this script started it through systemd
PATH="$PATH:/usr/sbin:/sbin"

# as_root COMMAND…: runs the command as root, through sudo if necessary.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    else
        sudo -n "$@"
    fi
}

# can_be_root: checks whether commands can run as root, and asks for the password if necessary.
# Returns 1 and sets root_problem if this account cannot become root.
can_be_root() {
    [ "$(id -u)" = 0 ] && return
    if ! command -v sudo >/dev/null; then
        root_problem="there is no sudo"
    elif [ -t 0 ]; then
        sudo -v && return
        root_problem="sudo refused"
    else
        sudo -n true 2>/dev/null && return
        root_problem="sudo asks for a password, but there is no terminal"
    fi
    return 1
}

# require_root WHAT: ends the script unless commands can run as root. WHAT names what needs root.
require_root() {
    can_be_root || fail "root is required to $1, but $root_problem" "run this script as root, or in a terminal with sudo"
}

# missing_packages WHAT…: prints the Debian packages that are missing for these purposes.
missing_packages() {
    local what
    for what in "$@"; do
        case $what in
            build)
                command -v cc >/dev/null && command -v make >/dev/null && command -v c++ >/dev/null || echo build-essential
                command -v pkg-config >/dev/null || echo pkg-config
                ;;
            docker)
                # Any engine that responds is sufficient. Install Debian's engine only if none
                # responds.
                docker_answers && continue
                command -v docker >/dev/null && command -v dockerd >/dev/null || echo docker.io
                command -v iptables >/dev/null || echo iptables
                ;;
            database)
                compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || echo postgresql
                ;;
            registry)
                command -v docker-registry >/dev/null || echo docker-registry
                ;;
            musl)
                command -v musl-gcc >/dev/null || echo musl-tools
                ;;
            python)
                python3 -c 'import ensurepip, venv' 2>/dev/null || echo python3-venv
                ;;
        esac
    done
}

# install_packages PACKAGE…: installs packages. Returns the installer's exit code.
install_packages() {
    (($#)) || return 0
    command -v apt-get >/dev/null || fail "missing on this machine: $*" "install the equivalent packages; the scripts can install packages only on Debian and Ubuntu"
    require_root "install $*"
    run "installing $*" apt_get_install "$@"
}

apt_get_install() {
    local options=(-q -o DPkg::Lock::Timeout=300)
    as_root env DEBIAN_FRONTEND=noninteractive apt-get "${options[@]}" update || return
    as_root env DEBIAN_FRONTEND=noninteractive apt-get "${options[@]}" install -y --no-install-recommends "$@"
    local code=$? package
    for package in "$@"; do
        # Stop the servers that these packages start: the tests start their own servers.
        case $package in
            postgresql | docker-registry) as_root service "$package" stop || true ;;
        esac
    done
    return "$code"
}

# ensure_toolchain: makes the pinned version of the Rust toolchain available.
ensure_toolchain() {
    local required name
    required=$(sed -n 's/^channel = "\(.*\)"/\1/p' "$root/rust-toolchain.toml")
    command -v cargo >/dev/null || PATH="$HOME/.cargo/bin:$PATH"
    command -v cargo >/dev/null || fail "there is no Rust toolchain on this machine" "install one from https://rustup.rs, then run this script again"
    if ! command -v rustup >/dev/null; then
        [ "$(printf '%s\n' "$required" "$(rustc_version rustc)" | sort -V | head -n 1)" = "$required" ] ||
            fail "the build needs Rust $required or newer, but $(rustc --version) is installed" "install rustup from https://rustup.rs"
        return
    fi
    toolchain_works && return
    # The same version may be installed under another name, such as `stable`.
    while read -r name _; do
        if [ "$(rustc_version rustup run "$name" rustc)" = "$required" ]; then
            export RUSTUP_TOOLCHAIN=$name
            toolchain_works && return
            unset RUSTUP_TOOLCHAIN
        fi
    done < <(rustup toolchain list)
    run "installing Rust $required" \
        rustup toolchain install "$required" --profile minimal --component clippy --component rustfmt --no-self-update
}

toolchain_works() {
    (
        cd "$root" && export RUSTUP_AUTO_INSTALL=0
        cargo --version && cargo clippy --version && cargo fmt --version
    ) >/dev/null 2>&1
}

# rustc_version COMMAND…: prints the version of a Rust compiler, for example "1.95.0". Prints
# nothing if the command fails.
rustc_version() {
    "$@" --version 2>/dev/null | sed -n 's/^rustc \([0-9.]*\).*/\1/p'
}

docker_answers() {
    timeout 20 docker version --format '{{.Server.Version}}' >/dev/null 2>&1
}

# docker_is_possible PACKAGE…: checks whether Docker might run here after these packages are
# installed. Changes nothing. Returns 1 and sets docker_problem if Docker certainly cannot run.
docker_is_possible() {
    case ${DOCKER_HOST:-unix://} in
        unix://*) ;;
        *)
            docker_problem="DOCKER_HOST=$DOCKER_HOST refers to another machine, but nodes need an engine on this machine"
            return 1
            ;;
    esac
    docker_answers && return
    if [ -n "${DOCKER_HOST:-}" ]; then
        docker_problem="it does not respond at DOCKER_HOST=$DOCKER_HOST"
    elif (($#)) && ! command -v apt-get >/dev/null; then
        docker_problem="it is not installed, and this script can install packages only on Debian and Ubuntu"
    elif ! can_be_root; then
        docker_problem="it is not running, and root is required to start it, but $root_problem"
    else
        return 0
    fi
    return 1
}

# ensure_docker: makes sure that an engine is running and that this account can use the engine.
# Returns 1 and sets docker_problem if this fails.
ensure_docker() {
    docker_answers && return
    docker_is_possible || return
    if ! as_root docker version >/dev/null 2>&1; then
        if [ -d /run/systemd/system ]; then
            info "starting Docker (systemctl start docker)"
            if ! as_root systemctl start docker; then
                docker_problem="systemd cannot start it (see journalctl --unit docker)"
                return 1
            fi
            docker_unit=yes
        elif ! pidof dockerd >/dev/null; then
            start_dockerd || return
        fi
        if ! wait_for_docker; then
            docker_problem="it was started but does not respond"
            return 1
        fi
    fi
    docker_answers && return
    # The engine is running, but this account cannot use its socket. Add the account to Debian's
    # group docker, and run this script again in that group, so that no new login is needed.
    if [ "${LIFECYCLE_IN_DOCKER_GROUP:-}" = yes ]; then
        docker_problem="it is running, but this account ($(id -un)) cannot use it, although it is in the group docker"
        return 1
    fi
    info "adding $(id -un) to the group docker"
    if ! as_root usermod -aG docker "$(id -un)"; then
        docker_problem="it is running, but this account ($(id -un)) cannot use it and cannot join the group docker"
        return 1
    fi
    local command
    command=$(printf '%q ' "$0" "${script_arguments[@]}")
    LIFECYCLE_IN_DOCKER_GROUP=yes LIFECYCLE_DOCKER_UNIT=$docker_unit exec sg docker -c "$command"
}

# start_dockerd: starts an engine on a machine without systemd. The engine is detached, so that it
# outlives the terminal. Call this only if no other engine is running: two engines in one network
# namespace destroy each other's bridge.
start_dockerd() {
    local log=$log_dir/dockerd.log options=()
    # Give the socket to this account's group, so that the account need not join another group.
    [ "$(id -u)" = 0 ] || options=(--group "$(id -g)")
    mkdir -p "$log_dir"
    info "starting Docker (dockerd, log: $log)"
    # shellcheck disable=SC2016  # expanded by the inner shell
    as_root sh -c 'log=$1; shift; setsid --fork dockerd "$@" </dev/null >"$log" 2>&1' sh "$log" "${options[@]}"
    wait_for_docker || {
        docker_problem="its engine (dockerd) exits immediately or does not respond"
        info "Docker cannot run on this machine; the end of $log:"
        tail -n 15 "$log" | cut -c 1-300 | sed 's/^/    /'
        return 1
    }
    docker_pid=$(as_root cat /var/run/docker.pid)
}

# engine_takes_nodes: checks whether the engine grants containers the privileges that local nodes
# need. Needs the base image. Returns 1 and sets docker_problem if the engine rejects these
# privileges.
engine_takes_nodes() {
    local rights output
    # One of these is enough: full privileges, or the capabilities that nodes get if the engine
    # rejects privileged containers.
    for rights in \
        "--cap-add SYS_ADMIN --cap-add NET_ADMIN --cap-add SYS_PTRACE --security-opt seccomp=unconfined --security-opt apparmor=unconfined" \
        --privileged; do
        # shellcheck disable=SC2086  # several words
        output=$(timeout 60 docker run --rm --pull never --network none $rights "$base_image" \
            sh -c 'mount -t tmpfs none /mnt && unshare --net true' 2>&1 </dev/null) && return
    done
    output=$(grep -m 1 . <<<"$output" | cut -c 1-300)
    docker_problem="it is running, but rejects the privileges that a node with its own engine needs: ${output%.}"
    return 1
}

# wait_for_docker: waits until the engine responds. Returns 1 if the engine exits or half a minute
# has passed.
wait_for_docker() {
    local begin=$SECONDS
    until as_root docker version >/dev/null 2>&1; do
        if ((SECONDS > begin + 30)) || { ((SECONDS > begin + 2)) && ! pidof dockerd >/dev/null; }; then
            return 1
        fi
        sleep 0.2
    done
}

# how_to_stop_docker: if this script started the engine, prints the command that stops it.
how_to_stop_docker() {
    local sudo=""
    [ "$(id -u)" = 0 ] || sudo="sudo "
    if [ -n "$docker_pid" ]; then
        echo "${sudo}kill $docker_pid"
    elif [ "$docker_unit" = yes ]; then
        echo "${sudo}systemctl stop docker docker.socket"
    fi
}

# stop_docker: if this script started the engine, stops it.
stop_docker() {
    if [ -n "$docker_pid" ]; then
        info "stopping Docker, which this script started"
        # Run `kill` through a shell, in which it is a builtin: a minimal Debian has no program
        # `kill` that sudo could run.
        as_root sh -c "kill $docker_pid" || true
        local deadline=$((SECONDS + 30))
        while [ -e "/proc/$docker_pid" ] && ((SECONDS < deadline)); do
            sleep 0.2
        done
        docker_pid=""
    elif [ "$docker_unit" = yes ]; then
        info "stopping Docker, which this script started"
        as_root systemctl stop docker docker.socket || true
        docker_unit=no
    fi
}

# start_base_image: if the base image is missing, starts the job "base image". Local nodes and tests
# are based on this image. Asks for the password first if necessary, because a background job cannot
# ask.
start_base_image() {
    docker image inspect "$base_image" >/dev/null 2>&1 && return
    require_root "make the base image"
    start_job "base image" "$root/script/base-image"
}

# built PROGRAM: prints the path of a built program in the directory `debug` of Cargo's target
# directory.
built() {
    printf '%s/debug/%s' "${CARGO_TARGET_DIR:-$root/target}" "$1"
}

# require_static BINARY: fails unless the binary is static. The manager's image contains no
# libraries.
require_static() {
    if LC_ALL=C readelf --program-headers "$1" | grep -q INTERP; then
        fail "$1 is not static" "unset RUSTC_WORKSPACE_WRAPPER, and make sure that no other .cargo/config.toml overrides this repository's; see .cargo/link-manager-statically"
    fi
}
