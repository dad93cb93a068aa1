# shellcheck shell=bash
# Runs long commands as jobs, each with its own log in target/log/, and prints every few seconds
# what the jobs are doing. Sourced by `demo`, `test`, and `endure`.

: "${root:?is set by the script that sources this}"
log_dir="$root/target/log"
heartbeat=15 # seconds between two progress messages
job_names=() job_pids=() job_logs=() job_starts=()

# Give each job its own process group, so that ending a job also ends its child processes.
set -m

info() {
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

# log_of NAME: prints the path of a job's log.
log_of() {
    printf '%s/%s.log' "$log_dir" "${1//[^a-zA-Z0-9]/-}"
}

# start_job NAME COMMAND…: runs the command in the background.
start_job() {
    local name=$1 log
    shift
    log=$(log_of "$name")
    mkdir -p "$log_dir"
    info "$name …"
    # Cargo also writes its progress bar to the log, so that progress messages can show counts such
    # as "120/512".
    CARGO_TERM_PROGRESS_WHEN=always CARGO_TERM_PROGRESS_WIDTH=100 \
        "$@" </dev/null >"$log" 2>&1 &
    job_names+=("$name")
    job_pids+=("$!")
    job_logs+=("$log")
    job_starts+=("$SECONDS")
}

# wait_jobs [NAME]: waits until this job (or, without NAME, every job) has succeeded. If any job
# fails, ends the other jobs and returns the exit code of the failed job.
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
            # End the processes that are left in the job's group. Otherwise, they would outlive this
            # script.
            kill -- "-${job_pids[index]}" 2>/dev/null || true
            if ((code)); then
                info "${job_names[index]}: failed after $((SECONDS - job_starts[index])) s; the end of ${job_logs[index]}:"
                log_lines "${job_logs[index]}" | tail -n 80 | sed 's/^/    /'
                unset "job_pids[index]"
                end_jobs
                return "$code"
            fi
            info "${job_names[index]}: done in $((SECONDS - job_starts[index])) s"
            unset "job_names[index]" "job_pids[index]" "job_logs[index]" "job_starts[index]"
        done
        [ "$waiting" = yes ] || return 0
        if ((SECONDS >= beat)); then
            for index in "${!job_pids[@]}"; do
                info "  ${job_names[index]}, $((SECONDS - job_starts[index])) s: $(doing "${job_logs[index]}")"
            done
            beat=$((SECONDS + heartbeat))
        fi
        sleep 0.2
    done
}

# run NAME COMMAND…: runs one job and waits for it, while other jobs continue.
run() {
    start_job "$@"
    wait_jobs "$1"
}

# end_jobs: ends all running jobs. Called after a failure and at the end of the script.
end_jobs() {
    local pid
    for pid in "${job_pids[@]}"; do
        kill -- "-$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
    job_names=() job_pids=() job_logs=() job_starts=()
}

# log_lines LOG: prints a log without colors, progress bars, and the names of compiled crates.
log_lines() {
    tr '\r' '\n' <"$1" | sed -e 's/\x1b\[[0-9;]*[A-Za-z]//g' |
        grep -avE '^ *(Building *\[|(Compiling|Checking|Documenting|Downloaded) [^ ]+ v[0-9])|^ *$' || true
}

# doing LOG: prints the last line of a job's log, shortened.
doing() {
    tail -c 1000 "$1" | tr '\r' '\n' | sed -e 's/\x1b\[[0-9;]*[A-Za-z]//g' -e 's/^ *Building *\[[=> ]*\] *//' -e 's/^ *//; s/ *$//' |
        grep -a . | tail -n 1 | cut -c 1-100 || true
}
