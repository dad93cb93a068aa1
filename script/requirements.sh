# shellcheck shell=bash
# Checks and installs the requirements of the scripts on this machine (Debian packages, a Rust
# toolchain, a running Docker engine, the base image). Sourced by `demo` and `test`, after progress.sh.

: "${root:?is set by the script that sources this}" "${log_dir:?is set by progress.sh}"
script_arguments=("$@")
base_image=debian:bookworm-slim
docker_problem=""                         # why Docker cannot be used, if so
docker_pid=""                             # the engine that this script started
docker_unit=${LIFECYCLE_DOCKER_UNIT:-no}  # yes: this script started it through systemd
PATH="$PATH:/usr/sbin:/sbin"

# as_root COMMAND…
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    else
        sudo -n "$@"
    fi
}

# can_be_root: asks once for the password, in the foreground. If this account cannot become root,
# root_problem contains the reason.
can_be_root() {
    [ "$(id -u)" = 0 ] && return
    if ! command -v sudo >/dev/null; then
        root_problem="there is no sudo"
    elif [ -t 0 ]; then
        sudo -v && return
        root_problem="sudo refused"
    else
        sudo -n true 2>/dev/null && return
        root_problem="sudo asks for a password, and there is no terminal"
    fi
    return 1
}

# require_root WHAT
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
                # Any engine that responds is sufficient; install Debian's engine only if there is
                # none.
                docker_answers && continue
                command -v docker >/dev/null && command -v dockerd >/dev/null || echo docker.io
                command -v iptables >/dev/null || echo iptables
                ;;
            database)
                compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || echo postgresql
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

# install_packages PACKAGE…: installs packages, and returns the installer's exit code.
install_packages() {
    (($#)) || return 0
    command -v apt-get >/dev/null || fail "missing on this machine: $*" "install their equivalents; the scripts can do so on Debian and Ubuntu only"
    require_root "install $*"
    run "installing $*" apt_get_install "$@"
}

apt_get_install() {
    local options=(-q -o DPkg::Lock::Timeout=300)
    as_root env DEBIAN_FRONTEND=noninteractive apt-get "${options[@]}" update || return
    as_root env DEBIAN_FRONTEND=noninteractive apt-get "${options[@]}" install -y --no-install-recommends "$@"
    local code=$? package
    for package in "$@"; do
        # The package starts a server that is not used, because the tests start their own servers.
        [ "$package" = postgresql ] && as_root service postgresql stop
    done
    return "$code"
}

# ensure_toolchain: makes a Rust toolchain of the pinned version available.
ensure_toolchain() {
    local required name
    required=$(sed -n 's/^channel = "\(.*\)"/\1/p' "$root/rust-toolchain.toml")
    command -v cargo >/dev/null || PATH="$HOME/.cargo/bin:$PATH"
    command -v cargo >/dev/null || fail "there is no Rust toolchain on this machine" "install one from https://rustup.rs, then run this script again"
    if ! command -v rustup >/dev/null; then
        [ "$(printf '%s\n' "$required" "$(rustc_version rustc)" | sort -V | head -n 1)" = "$required" ] ||
            fail "this needs Rust $required or newer, but $(rustc --version) is installed" "install rustup from https://rustup.rs"
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

# rustc_version COMMAND…: prints the version, for example "1.95.0", or nothing.
rustc_version() {
    "$@" --version 2>/dev/null | sed -n 's/^rustc \([0-9.]*\).*/\1/p'
}

docker_answers() {
    timeout 20 docker version --format '{{.Server.Version}}' >/dev/null 2>&1
}

# docker_is_possible PACKAGE…: checks whether Docker could run here after these packages are
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
        docker_problem="it is not installed, and this script can install packages on Debian and Ubuntu only"
    elif ! can_be_root; then
        docker_problem="it is not running, and root is required to start it, but $root_problem"
    else
        return 0
    fi
    return 1
}

# ensure_docker: starts an engine that this account can use. Returns 1 and sets docker_problem if no
# engine can be used.
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
    # The engine is running, but this account cannot use its socket. Join Debian's group docker; the rest
    # of the script runs in that group, without a new login.
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
# outlives the terminal. It is never started while another engine is running, because two engines in
# one network namespace destroy each other's bridge.
start_dockerd() {
    local log=$log_dir/dockerd.log options=()
    # The socket belongs to this account, so the account need not join a group.
    [ "$(id -u)" = 0 ] || options=(--group "$(id -g)")
    mkdir -p "$log_dir"
    info "starting Docker (dockerd, log: $log)"
    # shellcheck disable=SC2016  # expanded by the inner shell
    as_root sh -c 'log=$1; shift; setsid --fork dockerd "$@" </dev/null >"$log" 2>&1' sh "$log" "${options[@]}"
    wait_for_docker || {
        docker_problem="its engine (dockerd) exits at once, or does not respond"
        info "Docker cannot run on this machine; the end of $log:"
        tail -n 15 "$log" | cut -c 1-300 | sed 's/^/    /'
        return 1
    }
    docker_pid=$(as_root cat /var/run/docker.pid)
}

# engine_takes_nodes: checks whether the engine can start containers with the privileges that local
# nodes need, and whether these privileges work. Needs the base image. Returns 1 and sets
# docker_problem if not.
engine_takes_nodes() {
    local rights output
    # Either of these is enough: full privileges, or the capabilities that nodes get if the engine
    # rejects privileged containers.
    for rights in \
        "--cap-add SYS_ADMIN --cap-add NET_ADMIN --cap-add SYS_PTRACE --security-opt seccomp=unconfined --security-opt apparmor=unconfined" \
        --privileged; do
        # shellcheck disable=SC2086  # several words
        output=$(timeout 60 docker run --rm --pull never --network none $rights "$base_image" \
            sh -c 'mount -t tmpfs none /mnt && unshare --net true' 2>&1 </dev/null) && return
    done
    output=$(grep -m 1 . <<<"$output" | cut -c 1-300)
    docker_problem="it is running, but refuses the privileges that a node with its own engine needs: ${output%.}"
    return 1
}

# wait_for_docker: waits until the engine responds, has exited, or half a minute has passed.
wait_for_docker() {
    local begin=$SECONDS
    until as_root docker version >/dev/null 2>&1; do
        if ((SECONDS > begin + 30)) || { ((SECONDS > begin + 2)) && ! pidof dockerd >/dev/null; }; then
            return 1
        fi
        sleep 0.2
    done
}

# how_to_stop_docker: prints the command that stops the engine, if this script started it.
how_to_stop_docker() {
    local sudo=""
    [ "$(id -u)" = 0 ] || sudo="sudo "
    if [ -n "$docker_pid" ]; then
        echo "${sudo}kill $docker_pid"
    elif [ "$docker_unit" = yes ]; then
        echo "${sudo}systemctl stop docker docker.socket"
    fi
}

# stop_docker: stops the engine if this script started it.
stop_docker() {
    if [ -n "$docker_pid" ]; then
        info "stopping Docker, which this script started"
        # Use the shell's builtin `kill`: a minimal Debian has no separate program for sudo to run.
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

# start_base_image: starts the job "base image" if the image is missing. Nodes and the example's services
# are based on it. Asks for the password now if it may be needed, because a background job cannot.
start_base_image() {
    docker image inspect "$base_image" >/dev/null 2>&1 && return
    require_root "make the base image"
    start_job "base image" "$root/script/base-image"
}

# built COMMAND…: prints the path of target/debug/COMMAND, in the target directory that is configured for Cargo.
built() {
    printf '%s/debug/%s' "${CARGO_TARGET_DIR:-$root/target}" "$1"
}

# require_static BINARY: fails unless the binary is static, because the manager's image contains nothing else.
require_static() {
    if LC_ALL=C readelf --program-headers "$1" | grep -q INTERP; then
        fail "$1 is not static" "something set RUSTC_WORKSPACE_WRAPPER or another .cargo/config.toml; see .cargo/link-manager-statically"
    fi
}
