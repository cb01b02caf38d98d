#!/usr/bin/env bash
# What the tests drive that no Python package holds: a browser, Prometheus' rule checker, axe-core. Into the folder $1 where that
# is possible; what cannot be had is said, and its tests skip with that reason (with CI=true that is a failure).
set -uo pipefail
into=$(cd "$1" && pwd)
axe=axe-core-4.14.1
axe_sha512=FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ==
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$into/bin" "$into/share"

lacking() { echo "tests/parts.sh: $1 is not here: $2" >&2; }

updated=
update() { test -n "$updated" || apt-get update -qq > /dev/null 2>&1; updated=yes; }

if ! command -v chromium > /dev/null; then
  if command -v apt-get > /dev/null && [ "$(id -u)" = 0 ]; then
    echo "installing chromium for the dashboard's tests (once, about a minute) ..."
    update
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core > "$work/log" 2>&1 ||
      { tail -n 5 "$work/log" >&2; lacking chromium "apt-get could not install it"; }
  else
    lacking chromium "install the package chromium"
  fi
fi

if [ ! -x "$into/bin/promtool" ]; then
  if command -v promtool > /dev/null; then
    ln -sf "$(command -v promtool)" "$into/bin/promtool"
  elif command -v apt-get > /dev/null; then
    [ "$(id -u)" != 0 ] || update
    # Only unpacked: what is wanted is one program, not a service.
    if (cd "$work" && apt-get download -qq prometheus > /dev/null 2>&1 && dpkg -x prometheus_*.deb x); then
      install -m 755 "$work/x/usr/bin/promtool" "$into/bin/promtool"
    else
      lacking promtool "apt-get could not download the package prometheus"
    fi
  else
    lacking promtool "install Prometheus"
  fi
fi

if [ ! -f "$into/share/axe.min.js" ]; then
  if command -v npm > /dev/null && (cd "$work" && npm pack --silent axe-core@4.14.1 > /dev/null 2>&1 && [ -f $axe.tgz ]); then
    if [ "$(openssl dgst -sha512 -binary "$work/$axe.tgz" | openssl base64 -A)" = "$axe_sha512" ]; then
      tar -xzf "$work/$axe.tgz" -C "$work" package/axe.min.js && mv "$work/package/axe.min.js" "$into/share/axe.min.js"
    else
      lacking axe-core "what npm gave has another hash"
    fi
  else
    lacking axe-core "npm could not fetch it"
  fi
fi
exit 0
