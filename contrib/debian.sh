# need PACKAGE...: installs what is missing of Debian's packages, without starting any service of
# theirs. To be sourced by bash.
need() {
	local missing=() p
	for p in "$@"; do
		dpkg-query -W -f '${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing+=("$p")
	done
	if [ ${#missing[@]} -eq 0 ]; then
		echo "all there: $*"
		return
	fi
	if [ "$(id -u)" != 0 ]; then
		echo "missing packages: ${missing[*]}; run this as root to install them" >&2
		return 1
	fi
	case " ${missing[*]} " in
	*" postfix "*)
		if [ -e /usr/sbin/sendmail ]; then
			echo "this host has another mail server, which Debian's postfix would replace; install postfix by hand if that is meant" >&2
			return 1
		fi
		echo "postfix postfix/main_mailer_type select No configuration" | debconf-set-selections
		;;
	esac
	apt-get -qq update
	# RUNLEVEL=1 keeps the packages from starting their services.
	RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "${missing[@]}" >/dev/null
	echo "installed: ${missing[*]}"
}

# libraries PACKAGE...: prints the libraries that packages depend on, for those that are unpacked only.
libraries() {
	apt-cache show "$@" >/dev/null 2>&1 || apt-get -qq update >/dev/null || return
	apt-cache depends --no-pre-depends "$@" | sed -n 's/^  Depends: \(lib[^ <>]*\)$/\1/p' | sort -u
}

# unpack DIRECTORY PACKAGE...: unpacks packages of Debian, from its backports where the release has
# them not, into a directory, and installs nothing. It takes the mirror that apt is set up with.
unpack() {
	local into=$1 work codename mirror
	shift
	if [ -e "$into/unpacked" ] && [ "$(cat "$into/unpacked")" = "$*" ]; then
		echo "unpacked: $*"
		return
	fi
	work=$(mktemp -d)
	codename=$(. /etc/os-release && echo "$VERSION_CODENAME")
	mirror=$(apt-get indextargets --format '$(REPO_URI)' "Codename: $codename" 'Component: main' | head -n 1)
	mkdir -p "$work/lists/partial" "$work/sources" "$into"
	printf 'deb %s %s main\ndeb %s %s-backports main\n' "$mirror" "$codename" "$mirror" "$codename" >"$work/sources/own.list"
	# Lists of its own, so that the host's apt stays as it is set up.
	local apt=(apt-get -qq -o Dir::Etc::sourcelist=/dev/null -o "Dir::Etc::sourceparts=$work/sources" -o "Dir::State::lists=$work/lists" -o APT::Sandbox::User=root)
	"${apt[@]}" update
	(cd "$work" && "${apt[@]}" download "$@")
	local p
	for p in "$work"/*.deb; do
		dpkg -x "$p" "$into"
	done
	echo "$*" >"$into/unpacked"
	rm -rf "$work"
	echo "unpacked: $*"
}

# inside ROOT COMMANDS: runs commands of a shell in a root directory, with /proc and /dev.
inside() {
	unshare --mount --pid --fork sh -c 'mount --bind "$0" "$0" && mount -t proc proc "$0/proc" && mount --rbind /dev "$0/dev" && exec chroot "$0" sh -c "$1"' "$1" "$2"
}

# release_root RELEASE ROOT PACKAGE...: makes a root directory of a release of Debian with packages, of
# which no service is started, unless it is there already.
release_root() {
	local release=$1 root=$2 mirror log
	shift 2
	[ ! -e "$root/ready" ] || return 0
	mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Component: main' | head -n 1)
	rm -rf "$root"
	mkdir -p "$(dirname "$root")"
	debootstrap --variant=minbase "$release" "$root" "$mirror" >/dev/null || return 1
	cp /etc/apt/apt.conf.d/*proxy* "$root/etc/apt/apt.conf.d/" 2>/dev/null || true
	echo "postfix postfix/main_mailer_type select No configuration" | chroot "$root" debconf-set-selections
	printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
	chmod 755 "$root/usr/sbin/policy-rc.d"
	log=$(mktemp)
	inside "$root" "RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends $*" >"$log" 2>&1 ||
		{ cat "$log"; rm -f "$log"; return 1; }
	rm -f "$log"
	touch "$root/ready"
}
