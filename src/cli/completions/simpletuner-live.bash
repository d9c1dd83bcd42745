# Completions of simpletuner-live for bash. The program says what fits; the package bash-completion is not needed.
_simpletuner_live() {
    local program=simpletuner-live kind answer
    # As it was typed, if that is a path; an alias has another name.
    [[ $1 == */simpletuner-live ]] && program=${1/#\~\//$HOME/}
    mapfile -t answer < <("$program" complete bash -- "${COMP_LINE:0:COMP_POINT}" "$2" 2> /dev/null < /dev/null)
    kind=${answer[0]-}
    COMPREPLY=("${answer[@]:1}")
    case $kind in
        files) compopt -o default ;;
        folders) compopt -o dirnames ;;
        users) mapfile -t COMPREPLY < <(compgen -u -- "$2") ;;
        parts) compopt -o nospace ;;
        command) COMPREPLY=(); _simpletuner_live_command "${answer[1]}" "$2" ;;
    esac
}

# The line of another program, which begins behind this many characters: as the package bash-completion completes it, or with
# programs and files.
_simpletuner_live_command() {
    local start=$1 at=0 index=0 rest before
    while ((index < COMP_CWORD)); do
        rest=${COMP_LINE:at}
        before=${rest%%"${COMP_WORDS[index]}"*}
        ((at + ${#before} >= start)) && break
        ((at += ${#before} + ${#COMP_WORDS[index]}, index++))
    done
    if declare -F _comp_command_offset > /dev/null; then
        _comp_command_offset "$index"
    elif declare -F _command_offset > /dev/null; then
        _command_offset "$index"
    elif ((index == COMP_CWORD)) && [[ $2 != */* ]]; then
        mapfile -t COMPREPLY < <(compgen -c -- "$2" | sort -u)
    else
        compopt -o default
    fi
}
complete -F _simpletuner_live simpletuner-live
