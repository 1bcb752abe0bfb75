#!/usr/bin/env bash
# denials.sh  What SELinux and AppArmor refused since it was last asked, each kind once.
dmesg -c | sed -nE 's/.*avc: +denied +\{ (.*) \} .*comm="([^"]*)"(.*)scontext=[^:]*:[^:]*:([^:]*).*tcontext=[^:]*:[^:]*:([^:]*).*tclass=(\w+).*/\4 \5 \6 { \1 } \2/p;
  s/.*apparmor="DENIED" (.*) pid=[0-9]+ (.*)/\1 \2/p' | sort | uniq -c
