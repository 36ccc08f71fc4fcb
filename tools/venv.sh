#!/bin/sh
# Make the virtual environment $1 from the lock $2, unless it stands already; "$3" = editable installs this package too.
# PYTHON names the interpreter; otherwise the first one found that is new enough.
set -eu
folder=$1 lock=$2 package=${3:-}

fresh="$(cksum < "$lock") $PWD"
if [ -x "$folder/bin/python" ] && [ "$(cat "$folder/stamp" 2>/dev/null)" = "$fresh" ] &&
    [ "${PYTHON:-any}" = any -o "${PYTHON:-}" = "$(cat "$folder/asked" 2>/dev/null)" ]; then
    exit 0
fi

found=
for candidate in ${PYTHON:-python3 python python3.14 python3.13 python3.12 python3.11}; do
    version=$("$candidate" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null) || continue
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
        python=$candidate
        break
    fi
    found="$found $candidate is $version,"
done
if [ -z "${python:-}" ]; then
    echo "This book needs Python 3.11 or newer;${found:- none was found,} so install one (python.org, conda, your system's" \
        "packages), or name one: make book PYTHON=/path/to/python3.12" >&2
    exit 1
fi

echo "Making $folder from $lock with Python $version (once) …"
rm -rf "$folder"
if ! "$python" -m venv "$folder" >"$folder.log" 2>&1; then
    cat "$folder.log" >&2
    rm -rf "$folder" "$folder.log"
    echo "Python's venv module is missing or broken. On Debian and Ubuntu: apt-get install python3-venv. Then run make again." >&2
    exit 1
fi
rm -f "$folder.log"
"$folder/bin/python" -m pip install -qq --no-compile --disable-pip-version-check --requirement "$lock"
if [ "$package" = editable ]; then
    "$folder/bin/python" -m pip install -qq --no-compile --disable-pip-version-check --no-deps --editable .
fi
echo "${PYTHON:-}" > "$folder/asked"
echo "$fresh" > "$folder/stamp"
