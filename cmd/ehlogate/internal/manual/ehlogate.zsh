#compdef ehlogate
# zsh completion of ehlogate: the program itself says what may follow.
_ehlogate() {
	local cur=${words[CURRENT]}
	local -a before=("${(@)words[2,CURRENT-1]}") answers
	[[ $cur == -* ]] && before+=("$cur")
	answers=("${(@f)$(_CLI_ZSH_AUTOCOMPLETE_HACK=1 ehlogate "${before[@]}" --generate-bash-completion 2>/dev/null)}")
	if [[ -n ${answers[1]} ]]; then
		_describe ehlogate answers
	else
		_files
	fi
}
_ehlogate "$@"
