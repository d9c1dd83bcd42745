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
    set --erase words[1]
    set -l answer (command $program complete fish -- $words "$current" 2>/dev/null </dev/null)
    # The value of an option may stand behind a `=`.
    set -l option (string match --regex -- '^--[^=]*=' "$current")
    set -l value (string replace --regex -- '^--[^=]*=' '' "$current")
    switch "$answer[1]"
        case files
            __fish_complete_path "$value" | string replace --regex '^' "$option"
        case folders
            __fish_complete_directories "$value" '' | string replace --regex '^' "$option"
        case users
            __fish_complete_users | string replace --regex '^' "$option"
        case command
            # Its own completion, as at the begin of a line.
            set -l line (string escape -- $words[$answer[2]..-1]) "$current"
            complete --do-complete=(string join ' ' -- $line)
        case words parts
            printf '%s\n' $answer[2..-1]
    end
end
complete --command simpletuner-live --no-files --arguments '(__simpletuner_live_complete)'
