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
	(cd "$work" && "${apt[@]}" -t "$codename-backports" download "$@")
	local p
	for p in "$work"/*.deb; do
		dpkg -x "$p" "$into"
	done
	echo "$*" >"$into/unpacked"
	rm -rf "$work"
	echo "unpacked: $*"
}
