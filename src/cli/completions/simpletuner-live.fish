# Completions of simpletuner-live for fish. The program says what fits.
function __simpletuner_live_complete
    set -l words (commandline --current-process --tokenize --cut-at-cursor)
    set -l current (commandline --current-token --cut-at-cursor)
    while string match --quiet --regex '^\w+=' -- $words[1]
        set --erase words[1]
    end
    # As it was typed, if that is a path; an alias has another name.
    set -l program simpletuner-live
    string match --quiet '*/simpletuner-live' -- $words[1]
    and set program (string replace --regex '^~/' "$HOME/" -- $words[1])
    set -l answer (command $program complete fish -- $words[2..-1] "$current" 2>/dev/null </dev/null)
    switch "$answer[1]"
        case files
            __fish_complete_path "$current"
        case folders
            __fish_complete_directories "$current" ''
        case users
            __fish_complete_users
        case words parts
            printf '%s\n' $answer[2..-1]
    end
end
complete --command simpletuner-live --no-files --arguments '(__simpletuner_live_complete)'
