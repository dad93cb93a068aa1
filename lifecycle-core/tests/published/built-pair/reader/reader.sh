trap 'exit 0' TERM
while :; do cat /times/now; sleep "$EVERY" & wait $!; done
