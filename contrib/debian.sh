# need PACKAGE...: installs what is missing of Debian's packages, without starting any service of theirs. To be sourced by bash.
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
