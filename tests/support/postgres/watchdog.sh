# Runs one server for a program of tests, in the current folder, for as long as that program holds the other end of this
# shell's input. However the program ends (SIGKILL included), the system closes that end; then the server is stopped with
# signal $1, and folder $2 is removed.
trap '' HUP INT TERM PIPE
signal=$1
folder=$2
server=

end() {
  [ -z "$server" ] || kill -s "$1" "$server"
  wait
  server=
}

while read -r order details; do
  case $order in
    run)
      eval "$details" >>log 2>&1 </dev/null
      echo "$?"
      ;;
    start)
      eval "exec $details" >>log 2>&1 </dev/null &
      server=$!
      echo "$signal $server" >stopped-by
      echo "$server"
      ;;
    end)
      end "$details"
      echo ended
      ;;
  esac
done

end "$signal"
# What takes long goes first, as long as the lock tells what this folder is.
rm -rf data
cd / && rm -rf "$folder"
