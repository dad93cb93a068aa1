# shellcheck shell=bash
# Requirements: what the scripts need on this machine (Debian packages, a Rust toolchain, a running
# Docker, the base image) and how they get it. Sourced by `demo` and `test`, after progress.sh.

: "${root:?is set by the script that sources this}" "${log_dir:?is set by progress.sh}"
script_arguments=("$@")
base_image=debian:bookworm-slim
docker_problem=""                         # why Docker cannot be used, once that is known
docker_pid=""                             # the engine that we started ourselves
docker_unit=${LIFECYCLE_DOCKER_UNIT:-no}  # yes: the one that we started through systemd
PATH="$PATH:/usr/sbin:/sbin"

# as_root COMMAND…
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    else
        sudo -n "$@"
    fi
}

# can_be_root: asks for the password now, in the foreground, once. Otherwise root_problem says why not.
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
    can_be_root || fail "root is needed to $1, and $root_problem" "run this script as root, or in a terminal with sudo"
}

# missing_packages WHAT…: the Debian packages that are missing for what is asked for.
missing_packages() {
    local what
    for what in "$@"; do
        case $what in
            build)
                command -v cc >/dev/null && command -v make >/dev/null && command -v c++ >/dev/null || echo build-essential
                command -v pkg-config >/dev/null || echo pkg-config
                ;;
            docker)
                # An engine that answers may be anybody's; only without one do we need Debian's.
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

# install_packages PACKAGE…: returns the installer's exit code.
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
        # The package starts a server of its own, which nobody here uses: tests make their own.
        [ "$package" = postgresql ] && as_root service postgresql stop
    done
    return "$code"
}

# ensure_toolchain: a Rust toolchain of the pinned version, whichever way this machine has it.
ensure_toolchain() {
    local wanted name
    wanted=$(sed -n 's/^channel = "\(.*\)"/\1/p' "$root/rust-toolchain.toml")
    command -v cargo >/dev/null || PATH="$HOME/.cargo/bin:$PATH"
    command -v cargo >/dev/null || fail "there is no Rust toolchain on this machine" "install one from https://rustup.rs, then run this script again"
    if ! command -v rustup >/dev/null; then
        [ "$(printf '%s\n' "$wanted" "$(rustc_version rustc)" | sort -V | head -n 1)" = "$wanted" ] ||
            fail "this needs Rust $wanted or newer, and $(rustc --version) is installed" "install rustup from https://rustup.rs"
        return
    fi
    toolchain_works && return
    # The same version may be there under another name, such as `stable`.
    while read -r name _; do
        if [ "$(rustc_version rustup run "$name" rustc)" = "$wanted" ]; then
            export RUSTUP_TOOLCHAIN=$name
            toolchain_works && return
            unset RUSTUP_TOOLCHAIN
        fi
    done < <(rustup toolchain list)
    run "installing Rust $wanted" \
        rustup toolchain install "$wanted" --profile minimal --component clippy --component rustfmt --no-self-update
}

toolchain_works() {
    (
        cd "$root" && export RUSTUP_AUTO_INSTALL=0
        cargo --version && cargo clippy --version && cargo fmt --version
    ) >/dev/null 2>&1
}

# rustc_version COMMAND…: "1.95.0", or nothing.
rustc_version() {
    "$@" --version 2>/dev/null | sed -n 's/^rustc \([0-9.]*\).*/\1/p'
}

docker_answers() {
    timeout 20 docker version --format '{{.Server.Version}}' >/dev/null 2>&1
}

# docker_is_possible PACKAGE…: whether Docker may come to run here after these packages are installed.
# Changes nothing. Returns 1, with docker_problem set, where it is clear that it cannot.
docker_is_possible() {
    case ${DOCKER_HOST:-unix://} in
        unix://*) ;;
        *)
            docker_problem="DOCKER_HOST=$DOCKER_HOST names an engine elsewhere, and nodes need one on this machine"
            return 1
            ;;
    esac
    docker_answers && return
    if [ -n "${DOCKER_HOST:-}" ]; then
        docker_problem="it does not answer at DOCKER_HOST=$DOCKER_HOST"
    elif (($#)) && ! command -v apt-get >/dev/null; then
        docker_problem="it is not installed, and this script installs packages on Debian and Ubuntu only"
    elif ! can_be_root; then
        docker_problem="it does not run, root is needed to start it, and $root_problem"
    else
        return 0
    fi
    return 1
}

# ensure_docker: an engine that answers this account. Returns 1, with docker_problem set, if none can run.
ensure_docker() {
    docker_answers && return
    docker_is_possible || return
    if ! as_root docker version >/dev/null 2>&1; then
        if [ -d /run/systemd/system ]; then
            say "starting Docker (systemctl start docker)"
            if ! as_root systemctl start docker; then
                docker_problem="systemd cannot start it (journalctl --unit docker says more)"
                return 1
            fi
            docker_unit=yes
        elif ! pidof dockerd >/dev/null; then
            start_dockerd || return
        fi
        if ! wait_for_docker; then
            docker_problem="it was started and does not answer"
            return 1
        fi
    fi
    docker_answers && return
    # It runs, but its socket is not for this account. Docker's group is what Debian has for that;
    # the rest of the script runs in it at once, without a new login.
    if [ "${LIFECYCLE_IN_DOCKER_GROUP:-}" = yes ]; then
        docker_problem="it runs, but this account ($(id -un)) may not use it, though it is in the group docker"
        return 1
    fi
    say "adding $(id -un) to the group docker"
    if ! as_root usermod -aG docker "$(id -un)"; then
        docker_problem="it runs, but this account ($(id -un)) may not use it and cannot join the group docker"
        return 1
    fi
    local command
    command=$(printf '%q ' "$0" "${script_arguments[@]}")
    LIFECYCLE_IN_DOCKER_GROUP=yes LIFECYCLE_DOCKER_UNIT=$docker_unit exec sg docker -c "$command"
}

# start_dockerd: for machines without systemd. Detached, so that it outlives a terminal; never while
# another one runs, since two in one network namespace destroy each other's bridge.
start_dockerd() {
    local log=$log_dir/dockerd.log options=()
    # The socket is this account's own then, and nobody has to join a group.
    [ "$(id -u)" = 0 ] || options=(--group "$(id -g)")
    mkdir -p "$log_dir"
    say "starting Docker (dockerd, log: $log)"
    # shellcheck disable=SC2016  # expanded by the inner shell
    as_root sh -c 'log=$1; shift; setsid --fork dockerd "$@" </dev/null >"$log" 2>&1' sh "$log" "${options[@]}"
    wait_for_docker || {
        docker_problem="its engine (dockerd) ends as soon as it is started, or does not answer"
        say "Docker cannot run on this machine; the end of $log:"
        tail -n 15 "$log" | cut -c 1-300 | sed 's/^/    /'
        return 1
    }
    docker_pid=$(as_root cat /var/run/docker.pid)
}

# engine_takes_nodes: whether the engine starts containers with the rights that local nodes need, and
# whether they can use them. Needs the base image. Returns 1, with docker_problem set, if not.
engine_takes_nodes() {
    local rights said
    # Either is enough: what the nodes are given where privileged containers are refused, or all.
    for rights in \
        "--cap-add SYS_ADMIN --cap-add NET_ADMIN --cap-add SYS_PTRACE --security-opt seccomp=unconfined --security-opt apparmor=unconfined" \
        --privileged; do
        # shellcheck disable=SC2086  # several words
        said=$(timeout 60 docker run --rm --pull never --network none $rights "$base_image" \
            sh -c 'mount -t tmpfs none /mnt && unshare --net true' 2>&1 </dev/null) && return
    done
    said=$(grep -m 1 . <<<"$said" | cut -c 1-300)
    docker_problem="it runs, but refuses what a node that runs an engine itself needs: ${said%.}"
    return 1
}

# wait_for_docker: until it answers, or has died, or half a minute has gone.
wait_for_docker() {
    local begin=$SECONDS
    until as_root docker version >/dev/null 2>&1; do
        if ((SECONDS > begin + 30)) || { ((SECONDS > begin + 2)) && ! pidof dockerd >/dev/null; }; then
            return 1
        fi
        sleep 0.2
    done
}

# how_to_stop_docker: the command for the user, if the engine is one that we started.
how_to_stop_docker() {
    local sudo=""
    [ "$(id -u)" = 0 ] || sudo="sudo "
    if [ -n "$docker_pid" ]; then
        echo "${sudo}kill $docker_pid"
    elif [ "$docker_unit" = yes ]; then
        echo "${sudo}systemctl stop docker docker.socket"
    fi
}

# stop_docker: ends the engine if it is one that we started.
stop_docker() {
    if [ -n "$docker_pid" ]; then
        say "ending the Docker that this script started"
        # The shell's own `kill`: a bare Debian has no other, which sudo would want.
        as_root sh -c "kill $docker_pid" || true
        local deadline=$((SECONDS + 30))
        while [ -e "/proc/$docker_pid" ] && ((SECONDS < deadline)); do
            sleep 0.2
        done
        docker_pid=""
    elif [ "$docker_unit" = yes ]; then
        say "stopping the Docker that this script started"
        as_root systemctl stop docker docker.socket || true
        docker_unit=no
    fi
}

# start_base_image: starts the job "base image", if it is missing: nodes and the example's services are
# built on it. Asks for the password now if it may be needed, since a job in the background cannot.
start_base_image() {
    docker image inspect "$base_image" >/dev/null 2>&1 && return
    require_root "make the base image"
    start_job "base image" "$root/script/base-image"
}

# built COMMAND…: target/debug/COMMAND, wherever Cargo was told to put it.
built() {
    printf '%s/debug/%s' "${CARGO_TARGET_DIR:-$root/target}" "$1"
}

# require_static BINARY: the manager goes into an image that holds nothing else.
require_static() {
    if LC_ALL=C readelf --program-headers "$1" | grep -q INTERP; then
        fail "$1 is not static" "something set RUSTC_WORKSPACE_WRAPPER or another .cargo/config.toml; see .cargo/link-manager-statically"
    fi
}
