# shellcheck shell=bash
# Progress: runs long commands as jobs, each with a log of its own under target/log/, and says every
# few seconds what they are doing. Sourced by `demo` and `test`.

: "${root:?is set by the script that sources this}"
log_dir="$root/target/log"
heartbeat=15 # seconds between two signs of life
job_names=() job_pids=() job_logs=() job_starts=()

# Every job gets a process group, so that ending it ends what it has started.
set -m

say() {
    printf '[%4ds] %s\n' "$SECONDS" "$*"
}

fail() {
    printf '\nerror: %s\n' "$1" >&2
    shift
    local hint
    for hint in "$@"; do
        printf 'hint: %s\n' "$hint" >&2
    done
    exit "${exit_code:-1}"
}

# log_of NAME: where the job of that name writes.
log_of() {
    printf '%s/%s.log' "$log_dir" "${1//[^a-zA-Z0-9]/-}"
}

# start_job NAME COMMAND…: runs the command in the background.
start_job() {
    local name=$1 log
    shift
    log=$(log_of "$name")
    mkdir -p "$log_dir"
    say "$name …"
    # Cargo draws its bar into the log too: that is where the heartbeat finds "120/512".
    CARGO_TERM_PROGRESS_WHEN=always CARGO_TERM_PROGRESS_WIDTH=100 \
        "$@" </dev/null >"$log" 2>&1 &
    job_names+=("$name")
    job_pids+=("$!")
    job_logs+=("$log")
    job_starts+=("$SECONDS")
}

# wait_jobs [NAME]: returns when that job has ended well, without a name when all have. When one fails,
# whichever it is, the others are ended and its exit code is returned.
wait_jobs() {
    local awaited=${1:-} beat=$((SECONDS + heartbeat)) index code waiting
    while :; do
        waiting=no
        for index in "${!job_pids[@]}"; do
            if kill -0 "${job_pids[index]}" 2>/dev/null; then
                [ "${awaited:-${job_names[index]}}" = "${job_names[index]}" ] && waiting=yes
                continue
            fi
            code=0
            wait "${job_pids[index]}" || code=$?
            # Whatever it left in its group would outlive us.
            kill -- "-${job_pids[index]}" 2>/dev/null || true
            if ((code)); then
                say "${job_names[index]}: failed after $((SECONDS - job_starts[index])) s; the end of ${job_logs[index]}:"
                log_lines "${job_logs[index]}" | tail -n 80 | sed 's/^/    /'
                unset "job_pids[index]"
                end_jobs
                return "$code"
            fi
            say "${job_names[index]}: done in $((SECONDS - job_starts[index])) s"
            unset "job_names[index]" "job_pids[index]" "job_logs[index]" "job_starts[index]"
        done
        [ "$waiting" = yes ] || return 0
        if ((SECONDS >= beat)); then
            for index in "${!job_pids[@]}"; do
                say "  ${job_names[index]}, $((SECONDS - job_starts[index])) s: $(doing "${job_logs[index]}")"
            done
            beat=$((SECONDS + heartbeat))
        fi
        sleep 0.2
    done
}

# run NAME COMMAND…: one job, waited for; others go on beside it.
run() {
    start_job "$@"
    wait_jobs "$1"
}

# end_jobs: ends what is still running; for failures and for the script's own end.
end_jobs() {
    local pid
    for pid in "${job_pids[@]}"; do
        kill -- "-$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
    job_names=() job_pids=() job_logs=() job_starts=()
}

# log_lines LOG: the log without colours, progress bars and the names of compiled crates.
log_lines() {
    tr '\r' '\n' <"$1" | sed -e 's/\x1b\[[0-9;]*[A-Za-z]//g' |
        grep -vE '^ *(Building *\[|(Compiling|Checking|Documenting|Downloaded) [^ ]+ v[0-9])|^ *$' || true
}

# doing LOG: the last thing that a job said, in one short line.
doing() {
    tail -c 1000 "$1" | tr '\r' '\n' | sed -e 's/\x1b\[[0-9;]*[A-Za-z]//g' -e 's/^ *Building *\[[=> ]*\] *//' -e 's/^ *//; s/ *$//' |
        grep . | tail -n 1 | cut -c 1-100 || true
}
