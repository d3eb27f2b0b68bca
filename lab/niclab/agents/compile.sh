# What an agent finds as `clang` on its PATH, behind a line that sets real, identity and objects (see compiler.py).
# POSIX sh with coreutils and flock, for it also runs inside the images of Cilium, which have no Python.
set -u
# Huge pages spare a compiler that is done in seconds most of its page faults; other libraries of C pass over it.
export GLIBC_TUNABLES="${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}"

plain() { # hand over to the compiler as though this file were not there
    exec "$real" "$@"
}

compile() { # an agent that no longer wants an object kills this shell: the compiler goes with it
    if command -v setpriv >/dev/null; then
        setpriv --pdeathsig KILL "$real" "$@"
    else
        "$real" "$@"
    fi
}

key() { # of what the compiler would read now; never the same twice where that cannot be said
    {
        printf '%s\n' "$identity" "$PWD" "$@"
        "$real" "$@" -E 2>/dev/null || echo "broken off: $$ $(date +%s%N)"
    } | sed 's#/templates/[0-9a-f]\{64\}#/templates/-#g' | sha256sum
}

serve() { # an object that is there: opened first, so that it may be removed while it is read
    [ -f "$object" ] || return 1
    { cat <&8 || exit 1; } 8<"$object" && touch -c "$object"
}

compiles='' output='' previous=''
for word; do
    case $word in
    -c) compiles=yes ;;
    -E | -S | -M* | -save-temps*) plain "$@" ;;
    esac
    [ "$previous" = -o ] && output=$word
    previous=$word
done
[ "$compiles" ] && [ "$output" = - ] || plain "$@"
[ -w "$objects" ] || plain "$@"
name=$(key "$@")
name=${name%% *}
[ "${#name}" -eq 64 ] || plain "$@"
object=$objects/$name.o
serve && exit
exec 9>"$objects/$name.lock"
# Whoever compiles the same at the moment is waited for, and not for ever.
flock -w 60 9 2>/dev/null && serve && exit
draft=$(mktemp -d "$objects/.draft-XXXXXX" 2>/dev/null) || plain "$@"
trap 'rm -rf "$draft"' EXIT

compile "$@" >"$draft/object" 2>"$draft/said"
status=$?
cat "$draft/said" >&2
cat "$draft/object"
# Kept only if it succeeded in silence, and the sources are still those that were looked up.
if [ "$status" -eq 0 ] && [ ! -s "$draft/said" ] && [ "$(key "$@")" = "$name  -" ]; then
    mv -f "$draft/object" "$object"
fi
# Those who wait for this file have it open; whoever comes now finds the object.
rm -f "$objects/$name.lock"
exit "$status"
