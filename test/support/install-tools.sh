#!/usr/bin/env bash
# Brings the tools that the tests use beside Node. As root on Debian it installs what is missing; otherwise it names it,
# and the tests that need it say so. Where CI is set, nothing may be missing.
set -euo pipefail

missing_packages=()
missing_others=()

# need PACKAGE COMMAND…: the package is missing if the command fails.
need() {
  local package=$1
  shift
  "$@" >/dev/null 2>&1 || missing_packages+=("$package")
}

probe() {
  missing_packages=()
  missing_others=()
  need git git --version
  need make make --version
  need g++ g++ --version
  need etcd-server etcd --version
  need etcd-client etcdctl version
  need protobuf-compiler protoc --version
  need protobuf-compiler-grpc which grpc_cpp_plugin
  need pkg-config pkg-config --version
  need libgrpc++-dev pkg-config --exists grpc++
  need libprotobuf-dev pkg-config --exists protobuf
  need libssl-dev pkg-config --exists libcrypto
  need faketime faketime --version
  need python3-grpcio /usr/bin/python3 -c "import grpc"
  need python3-protobuf /usr/bin/python3 -c "import google.protobuf"
  # Debian's Go is too old to fetch the version that tools/go.mod asks for.
  go version >/dev/null 2>&1 || missing_others+=("Go 1.21 or newer (https://go.dev/dl)")
}

probe
if ((${#missing_packages[@]} > 0)) && [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null; then
  echo "installing ${missing_packages[*]}"
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq -o Acquire::Retries=3 &&
    apt-get install -y -qq --no-install-recommends "${missing_packages[@]}" ||
    echo "apt-get failed" >&2
  probe
fi

if ((${#missing_packages[@]} + ${#missing_others[@]} > 0)); then
  {
    echo "missing tools; some tests need them:"
    printf '  %s\n' ${missing_packages[@]+"${missing_packages[@]}"} ${missing_others[@]+"${missing_others[@]}"}
  } >&2
  [[ -z ${CI:-} ]] || exit 1
fi
