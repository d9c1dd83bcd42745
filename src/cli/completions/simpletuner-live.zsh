#compdef simpletuner-live
# Completions of simpletuner-live for zsh. The program says what fits.
_simpletuner-live() {
    local program=simpletuner-live kind line
    local -a answer shown
    # As it was typed, if that is a path; an alias has another name.
    [[ $words[1] == */simpletuner-live ]] && program=${${(Q)words[1]}/#\~\//$HOME/}
    answer=("${(@f)$("$program" complete zsh -- "${(@Q)words[2,CURRENT-1]}" "${(Q)PREFIX}" 2> /dev/null < /dev/null)}")
    kind=$answer[1]
    for line in "${(@)answer[2,-1]}"; do
        # _describe wants a colon between a word and what it means.
        if [[ $line == *$'\t'* ]]; then
            shown+=("${${line%%$'\t'*}//:/\\:}:${line#*$'\t'}")
        else
            shown+=("${line//:/\\:}")
        fi
    done
    [[ $kind == (files|folders|users) && $PREFIX == --*=* ]] && compset -P '*='
    case $kind in
        files) _files ;;
        folders) _files -/ ;;
        users) _users ;;
        parts) _describe 'value' shown -S '' ;;
        words) _describe 'value' shown ;;
        command) shift "$answer[2]" words; (( CURRENT -= answer[2] )); _normal ;;
    esac
}
if [[ $funcstack[1] == _simpletuner-live ]]; then
    _simpletuner-live "$@"
else
    (( $+functions[compdef] )) || { autoload -Uz compinit && compinit -i }
    compdef _simpletuner-live simpletuner-live
fi
