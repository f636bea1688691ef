#!/bin/sh
# Run by `cgpu doctor --cluster --probe` in a pod: copies the few files that the doctor reads from a
# node, asks a few programs of the node for their version, and prints it all as one archive. It writes
# only below its own folder. POSIX sh with the tools of busybox.
#
#   $1  the node's root folder
#   $2  an empty folder to fill
#   $3  what to copy, one a line: the most bytes (0: only that it is there), a tab, a path or pattern
#       below the root; one with a slash at its end is a folder, of which nothing in it is copied
#   $4  what to ask, one a line: the name of the output, a tab, the command, its words separated by tabs
set -u
root=$1 tree=$2/tree archive=$2/tree.tar.gz
longest=5 # seconds that a program of the node may take
exec 2>/dev/null # the pod's log joins both streams
umask 077
export PATH="$PATH:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" LC_ALL=C HOME=/
newline='
'
tab=$(printf '\t')
IFS=$newline
libraries=:
mkdir -p "$tree/.cgpu-probe"

# Where a path of the node is here, with the node's symbolic links followed inside its root: an
# absolute one would lead into this container. Fails for a loop.
resolve() {
  rest=$1 here=$root links=0
  while [ -n "$rest" ]; do
    part=${rest%%/*}
    case $rest in */*) rest=${rest#*/} ;; *) rest= ;; esac
    case $part in
      '' | .) continue ;;
      ..)
        [ "$here" = "$root" ] || here=${here%/*}
        continue
        ;;
    esac
    if [ -L "$here/$part" ]; then
      links=$((links + 1))
      [ "$links" -le 40 ] || return 1
      target=$(readlink "$here/$part") || return 1
      rest=$target/$rest
      case $target in /*) here=$root ;; esac
    else
      here=$here/$part
    fi
  done
  printf '%s\n' "$here"
}

# Copy one path: of a file as many bytes as are wanted, and one more to tell that there were more.
keep() {
  # `self` is whoever reads it; what is asked for is the node's first process.
  case $2 in proc/self/*) from=$root/proc/1/${2#proc/self/} ;; *) from= ;; esac
  [ -e "$from" ] || from=$(resolve "$2") || return 0
  case $2 in
    */)
      [ ! -d "$from" ] || mkdir -p "$tree/$2"
      return 0
      ;;
    */libc.so.6) # under several names, and large
      case $libraries in *:$from:*) return 0 ;; esac
      libraries=$libraries$from:
      ;;
  esac
  if [ ! -e "$from" ] || [ -d "$from" ]; then
    return 0
  fi
  case $2 in */*) mkdir -p "$tree/${2%/*}" ;; esac
  if [ -f "$from" ] && [ "$1" -gt 0 ]; then
    head -c $(($1 + 1)) "$from" >"$tree/$2" || rm -f "$tree/$2"
  else
    : >"$tree/$2"
  fi
}

# Copy all that a pattern names. What stands before its first wildcard is resolved, then it is matched.
keep_all() {
  case $2 in
    *[*?[]*)
      before=${2%%[*?[]*}
      case $before in */*) before=${before%/*} ;; *) before= ;; esac
      base=$(resolve "$before") || return 0
      limit=$1 wild=${2#"$before"}
      wild=${wild#/}
      set +f
      # shellcheck disable=SC2086 # the pattern is to be expanded
      set -- "$base"/$wild
      set -f
      for hit; do
        hit=${hit#"$base/"}
        [ ! -e "$base/$hit" ] || keep "$limit" "${before:+$before/}$hit"
      done
      ;;
    *) keep "$1" "$2" ;;
  esac
}

# What a program of the node prints; nothing where there is none.
ask() {
  name=$1
  IFS=$tab
  # shellcheck disable=SC2086 # the words are to be split
  set -- $2
  IFS=$newline
  {
    timeout "$longest" chroot "$root" "$@" </dev/null 2>&1
    echo $? >"$archive.status"
  } | head -c 65536 >"$tree/.cgpu-probe/$name"
  # Not permitted, not executable, not found, or ended by its time.
  case $(cat "$archive.status") in 12[4-7] | 137 | 143) rm -f "$tree/.cgpu-probe/$name" ;; esac
}

set -f
printf '%s\n' "$3" | {
  while read -r line; do
    [ -z "$line" ] || keep_all "${line%%"$tab"*}" "${line#*"$tab"}"
  done
}
printf '%s\n' "$4" | {
  while read -r line; do
    [ -z "$line" ] || ask "${line%%"$tab"*}" "${line#*"$tab"}"
  done
}

tar -C "$tree" -cf - . | gzip -c >"$archive"
sum=$(sha256sum <"$archive")
echo '-----BEGIN CGPU PROBE-----'
base64 <"$archive"
echo "-----END CGPU PROBE ${sum%% *}-----"
