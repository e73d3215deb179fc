#!/bin/sh
# A client of convq for POSIX shells, in one file: copy it. It needs redis-cli 6.2 or later (Debian: redis-tools) and awk.
#
#   convq.sh -m lenet seven.png                   one line of JSON for each image, as it is answered
#   convq.sh -m lenet -- *.png > answers.jsonl
#   curl -s https://example.org/7.png | convq.sh -m lenet -
#   convq.sh -m lenet -c order-17                 withdraw jobs
#
# The password never stands in a command line: put it into the URL in CONVQ_REDIS_URL, or into a file. What travels is
# described in PROTOCOL.md.
set -eu

usage() {
    cat <<'END'
usage: convq.sh -m MODEL [options] IMAGE...      - is standard input
       convq.sh -m MODEL -c ID...                withdraw jobs

  -u URL       redis://[user[:password]@]host[:port][/db] or rediss://…, special characters as %XX
               (CONVQ_REDIS_URL; redis://127.0.0.1:6379/0)
  -t SECONDS   give up when nothing was answered for so long (10)
  -i ID        your own id, for one image: submitted again within 10 minutes, it is the same job
  -p PRIORITY  high, normal or low
  -e MS        not computed any more so many milliseconds after it was submitted
  -k N         how many predictions (5)
  -o A,B       outputs or feature maps wanted besides
  -v N         pins a version of the model
  -d DTYPE -s SHAPE   the files are raw tensors, like -d uint8 -s 1,32,32
  -j N         how many jobs may be on their way at a time (100)

CONVQ_REDIS_PASSWORD_FILE, CONVQ_REDIS_CA, CONVQ_REDIS_CERT and CONVQ_REDIS_KEY name files, as for convq.
Exit codes: 0 every job ended as ok, 1 a job did not, or no answer came, 2 wrong usage, 4 Redis is not there or refuses,
130 interrupted. Nothing is sent unless all files can be read.
END
}

# Names and messages may hold what a terminal would obey: such bytes are shown as question marks.
c1=$(printf '\302[\200-\237]')
say() { printf 'convq.sh: %s\n' "$(printf %s "$*" | tr '\001-\037\177' '?' | LC_ALL=C sed "s/$c1/?/g")" >&2; }
fail() { code=$1; shift; say "$@"; exit "$code"; }
wrong() { fail 2 "$* (convq.sh -h says more)"; }
is_count() { case $1 in '' | *[!0-9]* | ??????????*) return 1 ;; esac; }

# -- what was asked for -----------------------------------------------------------------------------------------------------

url=${CONVQ_REDIS_URL:-redis://127.0.0.1:6379/0}
model='' patience_s=10 own_id='' lane='' dtype='' shape='' at_once=100 cancels=''
ttl_ms='' top_k='' outputs='' version=''
while getopts :u:m:t:i:p:e:k:o:v:d:s:j:ch option; do
    case $option in
    u) url=$OPTARG ;;
    m) model=$OPTARG ;;
    t) patience_s=$OPTARG ;;
    i) own_id=$OPTARG ;;
    p) case $OPTARG in high | low) lane=:$OPTARG ;; normal) lane='' ;; *) wrong "-p is high, normal or low" ;; esac ;;
    e) ttl_ms=$OPTARG ;;
    k) top_k=$OPTARG ;;
    o) outputs=$OPTARG ;;
    v) version=$OPTARG ;;
    d) dtype=$OPTARG ;;
    s) shape=$OPTARG ;;
    j) at_once=$OPTARG ;;
    c) cancels=yes ;;
    h) usage; exit 0 ;;
    :) wrong "-$OPTARG needs a value" ;;
    *) wrong "there is no option -$OPTARG" ;;
    esac
done
shift $((OPTIND - 1))

case $model in '' | [!a-z0-9]* | *[!a-z0-9_-]*) wrong "-m names the model, like -m lenet" ;; esac
[ $# -gt 0 ] || wrong "name an image"
for number in "$patience_s" "$at_once" "${ttl_ms:-0}" "${top_k:-1}" "${version:-1}"; do
    is_count "$number" || wrong "not a whole number: $number"
done
[ "$at_once" -gt 0 ] || wrong "-j is at least 1"
case $own_id in *[!A-Za-z0-9._:-]*) wrong "-i is 1 to 64 characters of A-Z a-z 0-9 . _ : -" ;; esac
[ -z "$own_id" ] || [ $# -eq 1 ] || wrong "-i names one job: give one image with it"
case $dtype$shape in '') ;; *) [ -n "$dtype" ] && [ -n "$shape" ] || wrong "a tensor needs -d and -s" ;; esac
command -v redis-cli >/dev/null || fail 2 "redis-cli is not installed (Debian: apt-get install redis-tools)"

# -- the server -----------------------------------------------------------------------------------------------------------

# %XX in a part of the URL -> the characters.
decoded() {
    left=$1 made=''
    while [ "$left" != "${left#*%}" ]; do
        made=$made${left%%\%*} left=${left#*%}
        hex=${left%"${left#??}"}
        case $hex in [0-9A-Fa-f][0-9A-Fa-f]) ;; *) wrong "the URL has a % that is not followed by two hexadecimal digits" ;; esac
        # shellcheck disable=SC2059 # a format of our own making
        made=$made$(printf "\\$(printf %o "0x$hex")") left=${left#??}
    done
    printf %s "$made$left"
}

# Sets host, port, db, user and REDISCLI_AUTH from the URL, and cli to what redis-cli is called with. The URL is never
# repeated: it may hold a password.
understand() {
    case $url in redis://* | rediss://*) ;; *) wrong "the URL begins with redis:// or rediss://" ;; esac
    tls='' rest=${url#*://}
    case $url in rediss:*) tls=yes ;; esac
    case $rest in *\?*) wrong "the URL may have no options" ;; esac
    user='' password=''
    case $rest in
    *@*)
        known=${rest%@*} rest=${rest##*@}
        user=$(decoded "${known%%:*}")
        case $known in *:*) password=$(decoded "${known#*:}") ;; esac
        ;;
    esac
    db=0
    case $rest in */*) db=${rest#*/} rest=${rest%%/*} ;; esac
    is_count "${db:=0}" || wrong "the database of the URL is a number"
    port=6379
    case $rest in
    \[*\]*) host=${rest#\[} host=${host%%\]*} rest=${rest##*\]} ;;
    *) host=${rest%%:*} rest=${rest#"$host"} ;;
    esac
    case $rest in :?*) port=${rest#:} ;; esac
    host=${host:-127.0.0.1}
    is_count "$port" || wrong "the port of the URL is a number"
    if [ -n "${CONVQ_REDIS_PASSWORD_FILE:-}" ]; then
        password=$(head -n 1 -- "$CONVQ_REDIS_PASSWORD_FILE") || fail 2 "the password file cannot be read"
    fi
    if [ -n "$password" ]; then export REDISCLI_AUTH="$password"; fi
}
understand

# redis-cli with these arguments, raw. It has no time-out of its own: where there is a `timeout`, that ends what hangs.
limiter=''
if timeout 1 true 2>/dev/null; then limiter=timeout; fi
if timeout --foreground 1 true 2>/dev/null; then limiter='timeout --foreground'; fi
limit_s=10
cli() {
    set -- --raw -h "$host" -p "$port" -n "$db" "$@"
    if [ -n "${CONVQ_REDIS_KEY:-}" ] && [ -n "$tls" ]; then set -- --key "$CONVQ_REDIS_KEY" "$@"; fi
    if [ -n "${CONVQ_REDIS_CERT:-}" ] && [ -n "$tls" ]; then set -- --cert "$CONVQ_REDIS_CERT" "$@"; fi
    if [ -n "${CONVQ_REDIS_CA:-}" ] && [ -n "$tls" ]; then set -- --cacert "$CONVQ_REDIS_CA" "$@"; fi
    if [ -n "$tls" ]; then case $host in *:*) ;; *[a-z]*) set -- --sni "$host" "$@" ;; esac; set -- --tls "$@"; fi
    if [ -n "$user" ]; then set -- --user "$user" "$@"; fi
    # shellcheck disable=SC2086 # the limiter is two words
    ${limiter:+$limiter "$limit_s"} redis-cli --no-auth-warning "$@"
}

# Sets reply to what redis-cli prints for these arguments. redis-cli ends with 0 when the server refuses, and prints the error
# where a reply would stand: so callers look at what a reply must look like, and all else is an error. 1 where it is one.
ask() {
    wanted=$1
    shift
    broken=''
    reply=$(cli "$@" 2>&1) || broken=yes
    # shellcheck disable=SC2254 # a pattern
    case $broken$reply in yes*) return 1 ;; $wanted) return 0 ;; *) return 1 ;; esac
}

# What an error means: 0 where it may pass, so that it is worth trying again.
passes() {
    case $1 in
    QUEUEFULL* | HELD* | OOM* | LOADING* | BUSY* | MISCONF* | MASTERDOWN* | CLUSTERDOWN* | TRYAGAIN* | NOREPLICAS* | READONLY* | UNBLOCKED*) ;;
    *"max number of clients"* | *"exhausted the last possible ID"*) ;;
    *WRONGPASS* | *NOAUTH* | *NOPERM* | *"AUTH failed"*) return 1 ;;
    '' | "Could not connect"* | Error* | *"onnection reset"* | *"Broken pipe"* | *"closed the connection"*) ;;
    *) return 1 ;;
    esac
}

# Exits with what an error of the server or the connection means.
refused() {
    case $1 in
    QUEUEFULL* | HELD* | UNKNOWNMODEL* | ANSWERED* | "ERR convq"*) fail 1 "$1" ;;
    '') fail 4 "Redis does not answer" ;;
    *) fail 4 "$1" ;;
    esac
}

now_s() { date +%s; }
random() { od -An -N"$1" -tx1 /dev/urandom | tr -d ' \n'; }

# Waits before the next try: 50 ms, doubling to 2 s, or as long as the error in $1 says; with jitter, so that not all come at
# once. `tries` counts.
pause() {
    tries=$((tries + 1))
    case $1 in
    *retry_after_ms=*) ms=${1##*retry_after_ms=} ms=${ms%%[!0-9]*} ;;
    *) ms=$((tries > 6 ? 2000 : 25 << tries)) ;;
    esac
    [ "$ms" -lt 2000 ] || ms=2000
    ms=$((ms * (75 + 0x$(random 1) * 50 / 255) / 100 + 1))
    sleep "$((ms / 1000)).$(printf %03d $((ms % 1000)))" 2>/dev/null || sleep 1
}

# -- withdrawing ------------------------------------------------------------------------------------------------------------

prefix="convq:{$model}:"
withdraw() { ask '[0-9]*' SADD "${prefix}cancelled" "$@" && ask '[01]' EXPIRE "${prefix}cancelled" 3600; }

if [ -n "$cancels" ]; then
    for id; do case $id in '' | *[!A-Za-z0-9._:-]*) wrong "not an id: $id" ;; esac; done
    withdraw "$@" || refused "$reply"
    exit 0
fi

# -- submitting -------------------------------------------------------------------------------------------------------------

scratch=$(mktemp -d)
open='' # numbers of the jobs that are on their way; the variables file_N, path_N and id_N say what they are
keys_of() { for n in $open; do eval "printf ' %s' \"\$id_$n\""; done; }
leave() {
    code=$1
    trap - EXIT INT TERM HUP
    # shellcheck disable=SC2046 # ids have no spaces
    if [ -n "$open" ] && [ "$code" -ne 0 ]; then limit_s=2; withdraw $(keys_of) || :; fi
    rm -rf "$scratch"
    exit "$code"
}
trap 'leave $?' EXIT
trap 'leave 130' INT
trap 'leave 143' TERM HUP PIPE

n=0
for file; do
    n=$((n + 1))
    path=$file
    if [ "$file" = - ]; then
        path=$scratch/stdin
        [ -e "$path" ] || cat >"$path"
    elif [ -d "$file" ] || [ ! -e "$file" ]; then
        fail 2 "no such file: $file"
    elif [ ! -f "$file" ]; then # what a shell makes of <(…) can be read once, and a repetition wants it again
        path=$scratch/$n
        cat <"$file" >"$path"
    fi
    [ -r "$path" ] || fail 2 "cannot be read: $file"
    eval "file_$n=\$file path_$n=\$path"
done
total=$n

# Sends job N until it is in the queue. An id makes repetitions one job.
submit() {
    eval "path=\$path_$1 id=\$id_$1"
    set -- "$1" id "$id"
    if [ -n "$ttl_ms" ]; then set -- "$@" ttl_ms "$ttl_ms"; fi
    if [ -n "$top_k" ]; then set -- "$@" top_k "$top_k"; fi
    if [ -n "$outputs" ]; then set -- "$@" outputs "$outputs"; fi
    if [ -n "$version" ]; then set -- "$@" version "$version"; fi
    if [ -n "$dtype" ]; then set -- "$@" dtype "$dtype" shape "$shape" tensor; else set -- "$@" image; fi
    number=$1
    shift
    tries=0
    while ! ask '[0-9]*-[0-9]*' -x FCALL convq_submit 1 "${prefix}jobs$lane" "$@" <"$path"; do
        case $reply in
        *"Function not found"*) # no service has been here, or it may not load functions: plain XADD
            if ask '[0-9]*-[0-9]*' -x XADD "${prefix}jobs$lane" '*' "$@" <"$path"; then break; fi
            ;;
        esac
        [ -r "$path" ] || fail 2 "cannot be read any more: $path"
        passes "$reply" && [ "$(now_s)" -lt "$until_s" ] || refused "$reply"
        pause "$reply"
    done
}

# -- waiting ----------------------------------------------------------------------------------------------------------------

# A text as JSON has it.
quoted() { text=$1 LC_ALL=C awk 'BEGIN {
    text = ENVIRON["text"]; out = ""
    for (i = 1; i < 32; i++) code[sprintf("%c", i)] = sprintf("\\u%04x", i)
    code["\""] = "\\\""; code["\\"] = "\\\\"
    for (i = 1; i <= length(text); i++) { c = substr(text, i, 1); out = out (c in code ? code[c] : c) }
    printf "\"%s\"", out
}'; }

# The text of a field of the document as JSON has it, the first of that name.
field() { printf %s "$document" | LC_ALL=C awk -v name="$1" '
    match($0, "[{,] *\"" name "\" *: *\"([^\"\\\\]|\\\\.)*\"") {
        found = substr($0, RSTART, RLENGTH); sub("^[{,] *\"" name "\" *: *\"", "", found); print substr(found, 1, length(found) - 1); exit
    }'; }

# Prints the document of the job whose result key is $key, and strikes it off.
take() {
    still=''
    for n in $open; do
        eval "id=\$id_$n file=\$file_$n"
        if [ "$key" != "${prefix}result:$id" ]; then
            still="$still $n"
            continue
        fi
        printf '{"file":%s,%s\n' "$(quoted "$file")" "${document#\{}"
        case $document in *'"status":"ok"'*) status=ok ;; *) status=$(field status) ;; esac
        if [ "$status" != ok ]; then
            failed=yes
            case $status in error) status=$(field code) ;; esac
            say "$file: $status$(field message | sed 's/^/: /')"
        fi
    done
    open=$still
}

# Asks where the jobs are after a break. One that is neither in the queue nor answered was lost by the server, or its result went
# into the broken connection: it is submitted again under another id, the old one being used up.
look_again() {
    for n in $open; do
        eval "id=\$id_$n"
        if ask '[a-z]*' FCALL convq_status 1 "${prefix}jobs$lane" "$id"; then
            case $reply in unknown) ;; *) continue ;; esac
            [ -z "$own_id" ] || fail 1 "$id: its result was lost; submit it under another id"
            eval "id_$n=\${id}r"
            submit "$n"
        else
            case $reply in *"Function not found"*) submit "$n" ;; *) passes "$reply" || refused "$reply"; return 1 ;; esac
        fi
    done
}

# Waits for one result of those that are on their way, on one connection.
wait_for_one() {
    waited_s=$((until_s - $(now_s)))
    [ "$waited_s" -gt 0 ] || explain
    [ "$waited_s" -lt 2 ] || waited_s=2 # and again: a signal is obeyed between two waits, and a dead connection noticed
    set --
    for n in $open; do eval "set -- \"\$@\" \"\${prefix}result:\$id_$n\""; done
    if ! ask "${prefix}result:*" BLPOP "$@" "$waited_s"; then
        if [ -z "$reply" ] && [ -z "$broken" ]; then return 0; fi # nothing yet
        passes "$reply" && [ "$(now_s)" -lt "$until_s" ] || refused "$reply"
        pause "$reply"
        doubts=yes
        return 0
    fi
    key=${reply%%
*} document=${reply#*
}
    take
    until_s=$(($(now_s) + patience_s)) tries=0
}

# Exits with why nothing came.
explain() {
    if ask '*' HGETALL convq:models && [ -z "$broken" ]; then
        served=$(printf '%s\n' "$reply" | awk 'NR % 2 { printf "%s%s", sep, $0; sep = ", " }')
        case ", $served," in
        *", $model,"*) fail 1 "no result in $patience_s s; a worker serves '$model'" ;;
        *) fail 1 "no worker serves '$model'; served: ${served:-nothing}" ;;
        esac
    fi
    fail 1 "no result in $patience_s s"
}

run="sh-$(random 8)"
failed='' doubts='' tries=0 next=1 reply=''
until_s=$(($(now_s) + patience_s))
while ! ask PONG PING; do # redis-cli goes on without the password where that is refused: nothing is sent then
    passes "$reply" && [ "$(now_s)" -lt "$until_s" ] || refused "$reply"
    pause "$reply"
done
while [ "$next" -le "$total" ] || [ -n "$open" ]; do
    # shellcheck disable=SC2086 # numbers with spaces between them
    on_their_way=$(set -- $open; echo $#)
    if [ -n "$doubts" ]; then
        if look_again; then doubts=''; else pause "$reply"; fi
        [ "$(now_s)" -lt "$until_s" ] || explain
    elif [ "$next" -le "$total" ] && [ "$on_their_way" -lt "$at_once" ]; then
        eval "id_$next=\${own_id:-$run-$next}"
        open="$open $next" # from here on: a signal may come when it is in the queue, and its entry id not yet here
        submit "$next"
        next=$((next + 1))
    else
        wait_for_one
    fi
done
[ -z "$failed" ] || exit 1
