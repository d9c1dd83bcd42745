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
    esac
}
complete -F _simpletuner_live simpletuner-live
