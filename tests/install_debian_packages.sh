#!/usr/bin/env bash
# What the tests use from Debian: SLURM (two virtual nodes on this machine) and Chromium (the report's pages).
# Installs them when it is root on Debian; elsewhere the tests that need them skip and say so.
set -euo pipefail
missing=()
command -v sbatch > /dev/null && [ -x /usr/sbin/munged ] && [ -x /usr/sbin/slurmctld ] || missing+=(slurm-wlm munge)
command -v chromium > /dev/null && command -v chromedriver > /dev/null || missing+=(chromium chromium-driver)
[ ${#missing[@]} -eq 0 ] && exit 0
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get > /dev/null; then
  echo "NOT INSTALLED: ${missing[*]} (needs root on Debian); the tests that use them will be skipped." >&2
  exit 0
fi
echo "Installing ${missing[*]} for the tests ..."
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends "${missing[@]}" > /dev/null 2>&1
