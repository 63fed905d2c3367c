import sys
from minisd.tiny import captions as C, scenes as S, judge as J
from minisd.tiny.fidelity import GROUPS
from minisd.training import rng
n=int(sys.argv[1]); bad=0; tot=0
for g in GROUPS:
    for i in range(n):
        s=S.random_scene(rng(31,i),*g); th=tuple(C.Wanted(*t[:3]) for t in s.things); v=J.judge(S.paint(s),C.Request(th,s.background,s.relation)); tot+=1
        if not v.right: bad+=1; print(g,i,v,s)
print(bad,tot)
