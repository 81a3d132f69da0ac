# usage: make_days.sh DAYS_FILE OUT_DIR
# Writes DAY.c for each line "DAY TASK" and all.c with the table of them. The tree must not depend on anything but
# the file, or equal inputs would not give equal outputs.
set -eu
days=$1
out=$2

while read -r day task; do
    printf 'const char *task_of_%s(void) { return "%s"; }\n' "$day" "$task" > "$out/$day.c"
done < "$days"

{
    echo '#include "schedule.h"'
    while read -r day task; do
        echo "const char *task_of_$day(void);"
    done < "$days"
    echo 'const struct day schedule[] = {'
    while read -r day task; do
        echo "    {\"$day\", task_of_$day},"
    done < "$days"
    echo '    {0, 0},'
    echo '};'
} > "$out/all.c"
