# What an agent finds as `clang` on its PATH, behind a line that sets real, identity and objects (see objects.py).
# POSIX sh with coreutils and flock, for it also runs inside the images of Cilium, which have no Python.
set -u

plain() { # hand over to the compiler as though this file were not there
    exec "$real" "$@"
}

key() { # of what the compiler would read now; its preprocessed text stays in the draft
    "$real" "$@" -E >"$draft/text" 2>"$draft/said" && [ ! -s "$draft/said" ] || return 1
    { printf '%s\n' "$identity" "$PWD" "$@" && cat "$draft/text"; } |
        sed 's#/templates/[0-9a-f]\{64\}#/templates/-#g' | sha256sum | cut -c -64
}

serve() { # an object that is there; the link keeps it while it is read
    ln "$objects/$name.o" "$draft/object" 2>/dev/null || return 1
    touch -c "$objects/$name.o"
    cat "$draft/object"
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
draft=$(mktemp -d "$objects/.draft-XXXXXX" 2>/dev/null) || plain "$@"
trap 'rm -rf "$draft"' EXIT

name=$(key "$@")
if [ "${#name}" -ne 64 ]; then
    "$real" "$@"
    exit
fi
serve && exit
exec 9>"$objects/$name.lock"
# Whoever compiles the same at the moment is waited for, and not for ever.
flock -w 60 9 2>/dev/null && serve && exit

"$real" "$@" >"$draft/object" 2>"$draft/said"
status=$?
cat "$draft/said" >&2
cat "$draft/object"
# Kept only if it succeeded in silence, and the sources are still those that were looked up.
if [ "$status" -eq 0 ] && [ ! -s "$draft/said" ] && [ "$(key "$@")" = "$name" ]; then
    mv -f "$draft/object" "$objects/$name.o"
fi
# Those who wait for this file have it open; whoever comes now finds the object.
rm -f "$objects/$name.lock"
exit "$status"
