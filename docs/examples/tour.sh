#!/bin/sh
# The main job in about ten seconds, in a scratch directory and on free
# ports: a webhook comes in, one command runs, another fails into the dead
# letters, its cause is mended, and it is replayed. Usage: tour.sh BINARY
set -eu

# Nothing of the caller's settings may reach the tour, nor its results the caller.
if [ -z "${TOUR-}" ]; then
	exec env -i TOUR=1 PATH="$PATH" TMPDIR="${TMPDIR:-/tmp}" sh "$0" "${1:?the binary is missing: sh tour.sh bin/orchestrate}"
fi
umask 077 # a configuration that others can write is refused
binary=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
dir=$(mktemp -d "$TMPDIR/orchestrate-tour.XXXXXX")
export HOME="$dir" ORCHESTRATE_CONFIG="$dir/config.yaml"
: >"$dir/log"
serve=
finish() {
	trap '' INT TERM HUP
	if [ -n "$serve" ]; then
		kill "$serve" 2>/dev/null || true # a first signal drains
		wait "$serve" || true
	fi
	rm -rf "$dir"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP

say() { printf '\n' && printf '# %s\n' "$@"; }
fail() {
	printf '\nthe tour failed: %s\n\nThe log of orchestrate serve:\n' "$1" >&2
	cat "$dir/log" >&2
	exit 1
}
# run shows a command line and what it prints.
run() {
	printf '\n$ orchestrate %s\n' "$*"
	code=0
	"$binary" "$@" >"$dir/out" 2>&1 || code=$?
	cat "$dir/out"
	[ "$code" -eq 0 ] || fail "orchestrate $* ended with exit code $code"
}
# await asks ten times a second, at most 300 times, until a command succeeds.
await() {
	what=$1 left=300
	shift
	until "$@"; do
		kill -0 "$serve" 2>/dev/null || fail "orchestrate serve ended before $what"
		left=$((left - 1))
		[ "$left" -gt 0 ] || fail "$what did not happen in time"
		sleep 0.1 2>/dev/null || sleep 1
	done
}
ready() { grep -q ' ready url=' "$dir/log"; }
event_is() { "$binary" events list --status "$1" -o ndjson | grep -q '"id":1,'; }

cat >"$ORCHESTRATE_CONFIG" <<'YAML'
routes:
  - name: review
    on: [pull_request.opened]
    run:
      command: [echo, "reviewing {{ .pull_request.html_url }}"]
  - name: preview
    on: [pull_request.opened]
    filter: {repository: ["acme/*"]}
    run:
      command: [sh, preview.sh, "{{ .number }}"]
      dir: .
YAML
cat >"$dir/preview.sh" <<'SH'
[ -r preview.conf ] || { echo 'preview.conf is missing'; exit 1; }
. ./preview.conf
echo "preview of $ORCHESTRATE_REPOSITORY#$1 is at https://$1.$domain"
SH

say 'Two routes want a pull request that was opened. One of their commands is broken:' \
	'preview.sh reads a file that is not there.'
printf '\n$ cat config.yaml\n'
cat "$ORCHESTRATE_CONFIG"

say 'serve receives and processes. It makes a database and a secret by itself.'
printf '\n$ orchestrate serve &\n'
"$binary" serve --listen 127.0.0.1:0 --admin-listen 127.0.0.1:0 --drain-timeout 5s --log-format text 2>"$dir/log" &
serve=$!
await 'serve was ready' ready
grep ' ready url=' "$dir/log"
ORCHESTRATE_LISTEN=$(sed -n 's|.* ready url=http://\([^/]*\)/.*|\1|p' "$dir/log")
export ORCHESTRATE_LISTEN

say 'A webhook, signed as GitHub signs. It is answered once it is on disk.'
run events send pull_request

say 'review runs at once. preview fails, and is tried again after 1, 2 and 4 s ...'
await 'the dead letter' event_is dead_letter
sed -n 's/ delivery_id=[^ ]*//; s/ repository=[^ ]*//; / attempt ended/p' "$dir/log"

say '... and with its retries spent it is a dead letter: kept, and waiting for you.'
run events list

say 'Why? Every attempt is kept, with what it printed.'
run events show 1

say 'Mend the cause ...'
printf '\n$ echo domain=preview.example >preview.conf\n'
echo domain=preview.example >"$dir/preview.conf"

say '... and replay. Only what was dead runs again: review had completed.'
run events requeue-dead --all --yes
await 'the replay' event_is completed
run events list
run status
[ "$("$binary" events show 1 -o ndjson | grep -o '"outcome":"completed"' | wc -l)" -eq 2 ] || fail 'not each route completed once'

printf '\nThat was the main job; nothing of it is left on this machine. To go on, start it on your own:\n\n'
printf '    %s serve\n\nand in another terminal: %s events send push. Then: docs/tutorial.md\n' "$1" "$1"
