# bash completion of ehlogate: the program itself says what may follow.
_ehlogate() {
	local cur=${COMP_WORDS[COMP_CWORD]}
	local before=("${COMP_WORDS[@]:1:COMP_CWORD-1}")
	[[ $cur == -* ]] && before+=("$cur")
	COMPREPLY=($(compgen -W "$(ehlogate "${before[@]}" --generate-bash-completion 2>/dev/null)" -- "$cur"))
}
complete -o bashdefault -o default -F _ehlogate ehlogate
