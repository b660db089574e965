# Prints what zsh would complete: complete.zsh SCRIPT FOLDER LINE. The inner shell runs in a terminal, because only the
# line editor can complete. There compadd, which receives the matches, is replaced by a function that prints them
# between two marks.
zmodload zsh/zpty || exit 1
setopt rcquotes
zpty inner zsh -f -i
() {
  zpty -w inner source $1
  local line
  while zpty -r inner line; do [[ $line == *ready* ]] && return; done
} =( <<< '
PROMPT=
autoload -U compinit && compinit -D
source '$1'
cd '$2'
bindkey ''^I'' complete-word
mark() { print -r -- $''\0'' }
compprefuncs=(mark)
comppostfuncs=(mark exit)
zstyle '':completion:*'' insert-tab false
compadd() {
  # Such calls only ask what matches.
  if [[ ${@[1,(i)(-|--)]} == *-(O|A|D)\ * ]]; then builtin compadd "$@"; return; fi
  local -a hits
  builtin compadd -A hits "$@"
  (( $#hits )) && print -rl -- $IPREFIX$^hits
}
print ready')
zpty -w -n inner "$3"$'\t'
integer marks=0
while zpty -r inner; do :; done | while IFS= read -r line; do
  if [[ $line == *$'\0'* ]]; then
    (( ++marks == 2 )) && exit
  elif (( marks )); then
    print -r -- ${line%$'\r'}
  fi
done
