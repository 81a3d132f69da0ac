#ifndef SCHEDULE_H
#define SCHEDULE_H

struct day {
    const char *name;
    const char *(*task)(void);
};

/* The days of days.txt in order; the last one has no name. */
extern const struct day schedule[];

#endif
