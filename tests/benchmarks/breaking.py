"""Unpolished: honest device beside an attack of the outside tester. python -m tests.benchmarks.breaking KIND,… SECONDS SETTLE_S"""
import contextlib, sys, time, os, tempfile, statistics, threading
from pathlib import Path
import torch, zmq
from tests.benchmarks import flooding as F
from tests.benchmarks.hostile import Hostile, Pace, _answer, _opened, _heed, VENDOR
from tests.support import Peer, frames_of, ROOT
from llama import wire
from llama.wire import *
from llama.checkpoint.halves import read_half, tokenizer_of

def rowsof(h, n, value=0.1, nan=False):
    w=h.welcome
    rows=torch.full((n,w.dim),value,dtype=DTYPES[w.dtype])
    if nan: rows[0,0]=float("nan")
    return rows
def step(h, session, seq, pos, n, want=0, nan=False):
    w=h.welcome
    return frames_of(Step(session,seq,pos,want,w.dtype,n,w.dim), rowsof(h,n,nan=nan))

def fill(h, peer, session, upto, pace):
    seq=0; R=h.welcome.max_rows
    for start in range(0,upto,R):
        seq+=1
        _answer(peer, step(h,session,seq,start,min(R,upto-start)), pace)
    return seq

def fresh_prompts(h, sent):
    pace=Pace(); ctx=h.welcome.max_seq_len; R=h.welcome.max_rows
    ss=[]
    def new(): 
        p=Peer(h.address,keys=h.keys)
        return [p, None, 0, 0]
    ss=[new() for _ in range(4)]
    for s in ss:
        s[1]=_opened(s[0],h.open(prompt_tokens=ctx-1))
        s[2]=1; s[0].send(*step(h,s[1],1,0,R))
    while True:
        for s in ss:
            if s[0].socket.poll(1):
                s[0].receive_bytes(); sent.value+=1
                s[3]+=R
                if s[3]>=ctx:
                    _answer(s[0], frames_of(Close(s[1],s[2]+1)))
                    s[1]=_opened(s[0],h.open(prompt_tokens=ctx-1)); s[2]=0; s[3]=0
                s[2]+=1
                s[0].send(*step(h,s[1],s[2],s[3],R))

def dear_decode(h, sent, far=True, gather=0.0):
    pace=Pace(); ctx=h.welcome.max_seq_len
    ss=[]
    for _ in range(4):
        p=Peer(h.address,keys=h.keys)
        last=ctx-1 if far else 0
        s=_opened(p,h.open(prompt_tokens=last+1,temperature=100.0,top_p=1.0))
        seq=fill(h,p,s,last,pace)
        ss.append([p,s,seq,last,0.0])
    def go(s):
        s[2]+=1; s[0].send(*step(h,s[1],s[2],s[3],1,1))
    for s in ss: go(s)
    while True:
        for s in ss:
            if s[4] and time.monotonic()>=s[4]:
                s[4]=0.0; go(s)
            elif not s[4] and s[0].socket.poll(1):
                r=wire.decode_reply(s[0].receive_bytes())
                assert isinstance(r,Tokens),r
                sent.value+=1
                if gather: s[4]=time.monotonic()+gather
                else: go(s)

def dear_near(h,sent): dear_decode(h,sent,far=False)
def plain_far(h,sent):
    o=h.open
    h.open=lambda **k:o(**{**k,"temperature":0.0})
    dear_decode(h,sent)
def plain_near(h,sent):
    o=h.open
    h.open=lambda **k:o(**{**k,"temperature":0.0})
    dear_decode(h,sent,far=False)
def dear_gather(h,sent): dear_decode(h,sent,gather=0.021)

def nan_heavy(h,sent):
    """Cheap steps that are refused teach the cloud that rows cost nothing; then a whole heavy one goes through at once."""
    pace=Pace(); ctx=h.welcome.max_seq_len; R=h.welcome.max_rows; pos=R
    heavy=[]
    for _ in range(1):
        p=Peer(h.address,keys=h.keys)
        s=_opened(p,h.open(prompt_tokens=pos+R-63,temperature=100.0,top_p=1.0))
        heavy.append([p,s,fill(h,p,s,pos,pace)])
    p=Peer(h.address,keys=h.keys)
    s=_opened(p,h.open(temperature=100.0,top_p=1.0)); n=0
    while True:
        for _ in range(24):
            n+=1
            _answer(p, step(h,s,n,0,2,2,nan=True), pace)
        for x in heavy[:1]:
            x[2]+=1
            r=wire.decode_reply(_answer(x[0], step(h,x[1],x[2],pos,R,64), pace)); assert isinstance(r,Tokens),r; sent.value+=1

def nan_decode(h,sent):
    pace=Pace(); ss=[]
    for _ in range(4):
        p=Peer(h.address,keys=h.keys)
        ss.append([p,_opened(p,h.open()),0])
    for x in ss: x[2]+=1; x[0].send(*step(h,x[1],x[2],0,1,1,nan=True))
    while True:
        for x in ss:
            if x[0].socket.poll(1):
                _heed(x[0].receive_bytes()); sent.value+=1
                pace.wait(0)
                x[2]+=1; x[0].send(*step(h,x[1],x[2],0,1,1,nan=True))

def one_row_chunks(h,sent):
    pace=Pace(); ss=[]; ctx=h.welcome.max_seq_len
    for _ in range(4):
        p=Peer(h.address,keys=h.keys)
        ss.append([p,_opened(p,h.open(prompt_tokens=ctx-1)),0,0])
    def go(x):
        x[2]+=1; x[0].send(*step(h,x[1],x[2],x[3],1,0)); x[3]+=1
    for x in ss: go(x)
    while True:
        for x in ss:
            if x[0].socket.poll(1):
                x[0].receive_bytes(); sent.value+=1
                if x[3]>=ctx-1:
                    _answer(x[0], frames_of(Close(x[1],x[2]+1)))
                    x[1]=_opened(x[0],h.open(prompt_tokens=ctx-1)); x[2]=x[3]=0
                go(x)

def dots(h,sent):
    """Finish of a reply of full stops that end before a letter."""
    tok=tokenizer_of(read_half(h._half,"edge"))
    ids=tok.encode("a"+"."*9990+"x",bos=False,eos=False)
    assert len(ids)<2000,len(ids)
    ps=[]
    for _ in range(4):
        p=Peer(h.address,keys=h.keys)
        ps.append([p,_opened(p,h.open(prompt_id="birthday",resumed_ids=tuple(ids))),0])
    def go(x):
        x[2]+=1; x[0].send(*frames_of(Finish(x[1],x[2],len(ids))))
    import heapq
    for x in ps: go(x)
    pend=[(0.0,None)]*0
    while True:
        for i,x in enumerate(ps):
            if x[0].socket.poll(2):
                b=x[0].receive_bytes()
                r=wire.decode_reply(b)
                if isinstance(r,Error):
                    if r.code=="busy":
                        time.sleep(r.retry_after_s or 0.1); x[2]-=1
                    else: print(r,file=sys.stderr)
                else: sent.value+=1
                go(x)

ALL={k:v for k,v in globals().items() if callable(v) and getattr(v,"__module__","")=="__main__" and k not in("rowsof","step","fill")}

class Dev(F._Device):
    def reply(self):
        t=time.monotonic(); turn=super().reply(); self.ttft=turn.times[0]-t
        return turn

def main():
    kinds=sys.argv[1].split(","); rounds=int(sys.argv[2]) if len(sys.argv)>2 else 1
    ck=Path(".demo/smollm2").absolute(); 
    F.SESSIONS={k:None for k in kinds}
    with tempfile.TemporaryDirectory() as d:
        keys=F._keys(Path(d))
        with contextlib.ExitStack() as st:
            cl=st.enter_context(F._cloud(ck,Path(d)/"now",Path(d),ROOT,1))
            dev=st.enter_context(contextlib.closing(Dev(F._asks(ck,"examples/sheets/birthday.toml",48),keys["phone"])))
            dev.goes_to(cl.address); alone=dev.reply(); alone=dev.reply()
            p=alone.pass_s
            print(f"alone {alone.speed:.1f}/s ttft {dev.ttft:.2f} pass {1e3*p:.0f} ms",flush=True)
            for _ in range(rounds):
                h=F._beside(dev,cl.pid,F._ask_on,cl.address,keys["tablet"],dev.asks)
                print(f"honest {h.speed:.1f}/s ttft {dev.ttft:.2f} gap {h.longest_gap_s/p:.1f}",flush=True)
                for i,k in enumerate(kinds):
                    try:
                        t=F._beside(dev,cl.pid,F._attack,cl.address,keys[f"device-{i}"],ck,ALL[k])
                    except AssertionError as e:
                        print(k,"ended",e); continue
                    assert t.ids==alone.ids
                    print(f"{k}: {t.speed:.1f}/s = {t.speed/h.speed:.2f} of honest; ttft {dev.ttft:.2f}; gap {t.longest_gap_s:.2f} s = {t.longest_gap_s/p:.1f} passes; msgs/s {t.messages_s:.1f} cores {[round(c,2) for c in t.cores]}",flush=True)
from itertools import pairwise
def heavy_as_written(h,sent):
    '''Hostile.heavy_steps, telling what it is answered'''
    import tests.support as S
    orig=S.Peer.receive_bytes
    n=[0]
    def rb(self):
        b=orig(self); r=wire.decode_reply(b); n[0]+=1
        if n[0] in (33,34,40,60): print(n[0], str(r)[:120],file=sys.stderr,flush=True)
        return b
    S.Peer.receive_bytes=rb
    h.heavy_steps(sent)
def heavy_mended(h,sent):
    pace=Pace(); ctx=h.welcome.max_seq_len; R=h.welcome.max_rows; pos=R
    p=Peer(h.address,keys=h.keys)
    s=_opened(p,h.open(prompt_tokens=pos+R-63,temperature=100.0,top_p=1.0)); seq=fill(h,p,s,pos,pace)
    while True:
        seq+=1; r=wire.decode_reply(_answer(p, step(h,s,seq,pos,R,64), pace)); assert isinstance(r,Tokens),r; sent.value+=1
ALL['heavy_as_written']=heavy_as_written; ALL['heavy_mended']=heavy_mended
def watch():
    kinds=sys.argv[1].split(","); secs=float(sys.argv[2]); settle=float(sys.argv[3])
    ck=Path(".demo/smollm2").absolute(); F.SESSIONS={k:None for k in kinds}
    with tempfile.TemporaryDirectory() as d:
        keys=F._keys(Path(d))
        with contextlib.ExitStack() as st:
            cl=st.enter_context(F._cloud(ck,Path(d)/"now",Path(d),ROOT,1))
            dev=st.enter_context(contextlib.closing(Dev(F._asks(ck,"examples/sheets/birthday.toml",48),keys["phone"])))
            dev.goes_to(cl.address); dev.reply(); alone=dev.reply(); p=alone.pass_s
            print(f"alone {alone.speed:.1f}/s ttft {dev.ttft:.2f} pass {1e3*p:.0f} ms",flush=True)
            def beside(name,work,*args):
                sent=F._fork.Value("q",0,lock=False)
                with F._running(work,*args,sent) as pid:
                    time.sleep(settle if name!="honest" else 3); end=time.monotonic()+secs; gaps=[];sp=[];tt=[]
                    b=sent.value; t0=time.monotonic()
                    while time.monotonic()<end:
                        t=dev.reply(); gaps+= [y-x for x,y in pairwise(t.times)]; sp.append(t.speed); tt.append(dev.ttft)
                    gaps.sort()
                    print(f"{name}: speed {statistics.median(sp):.1f} min {min(sp):.1f}; gaps longest {[round(g/p,1) for g in gaps[-4:]]} passes = {gaps[-1]:.2f} s; median pass {1e3*statistics.median(gaps):.0f} ms; ttft {[round(x,1) for x in tt]}; its msgs/s {(sent.value-b)/(time.monotonic()-t0):.1f}; load {os.getloadavg()[0]:.1f}",flush=True)
            beside("honest",F._ask_on,cl.address,keys["tablet"],dev.asks)
            for i,k in enumerate(kinds):
                try: beside(k,F._attack,cl.address,keys[f"device-{i}"],ck,ALL[k])
                except AssertionError as e: print(k,"ended",e)
watch()
