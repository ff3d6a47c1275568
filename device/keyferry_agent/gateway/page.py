"""The one page: lists destinations and shows their data, on a phone too. Nothing is loaded from
elsewhere; its script and style are named by their hashes in the policy that goes with it.
"""

import binascii

from keyferry_core._compat import sha256

STYLE = b"""
:root{color-scheme:light dark;font:100%/1.4 system-ui,sans-serif}
body{margin:0 auto;max-width:40rem;padding:1rem}
h1{font-size:1.3rem;margin:0 0 .5rem}
form,section{margin:0 0 1rem}
label{display:block;margin:.5rem 0 .2rem}
input,button{font:inherit;padding:.6rem .8rem;border:1px solid #888;border-radius:.5rem;
box-sizing:border-box;max-width:100%}
input{width:100%}
button{cursor:pointer;min-height:2.8rem;margin:.4rem .4rem 0 0}
button[aria-pressed=true]{background:#063;border-color:#063;color:#fff}
ul{list-style:none;margin:0;padding:0}
pre{background:#8882;border-radius:.5rem;padding:.8rem;min-height:4rem;max-height:50vh;
overflow:auto;white-space:pre-wrap;overflow-wrap:anywhere}
.note{font-size:.85rem;opacity:.8}
.bad{color:#c22}
[hidden]{display:none}
"""

SCRIPT = b"""
'use strict';
const $=i=>document.getElementById(i);
let token='',chosen='',stop=null;
async function ask(path,signal){
 const headers=token?{Authorization:'Bearer '+token}:{};
 const r=await fetch(path,{headers,signal,cache:'no-store'});
 if(r.ok)return r;
 let e={};try{e=await r.json()}catch(_){}
 const x=new Error((e.error||'error '+r.status)+(e.text?': '+e.text:''));
 x.status=r.status;throw x;
}
function say(text,bad){$('state').textContent=text;$('state').className=bad?'bad':''}
function choose(name,button){
 halt();chosen=name;$('out').textContent='';say('');
 for(const b of $('list').querySelectorAll('button'))b.setAttribute('aria-pressed',b===button);
 $('data').hidden=false;$('name').textContent=name;
}
async function list(){
 try{
  const found=await(await ask('/v1/destinations')).json();
  $('login').hidden=true;$('found').hidden=false;$('who').textContent=found.third_party;
  $('list').replaceChildren();
  for(const name of found.destinations){
   const b=document.createElement('button');b.textContent=name;
   b.setAttribute('aria-pressed',false);b.onclick=()=>choose(name,b);
   const li=document.createElement('li');li.append(b);$('list').append(li);
  }
  say(found.destinations.length?'':'No destination is permitted.');
 }catch(e){
  $('login').hidden=false;
  if(token||e.status!==401)say(e.message,true);
  token='';
 }
}
function path(kind){
 return '/v1/'+encodeURIComponent(chosen)+'/'+kind+'/'+
  $('path').value.split('/').map(encodeURIComponent).join('/');
}
function halt(){if(stop)stop.abort();stop=null;$('halt').hidden=true}
function show(text,more){
 const out=$('out');
 out.textContent=(more?out.textContent.slice(-20000):'')+text;out.scrollTop=out.scrollHeight;
}
async function get(){
 halt();say('Asking '+chosen+' ...');
 try{
  const r=await ask(path('data'));
  const t=await r.text();
  show(/json/.test(r.headers.get('content-type'))?JSON.stringify(JSON.parse(t),null,1):t);
  say('');
 }catch(e){show('');say(e.message,true)}
}
async function watch(){
 halt();show('');say('Asking '+chosen+' ...');
 const mine=stop=new AbortController();$('halt').hidden=false;
 try{
  const reader=(await ask(path('events'),mine.signal)).body.getReader();
  const text=new TextDecoder();let rest='';say('Watching '+chosen);
  for(;;){
   const{value,done}=await reader.read();if(done)break;
   rest+=text.decode(value,{stream:true});
   const parts=rest.split('\\n\\n');rest=parts.pop();
   for(const part of parts){
    let item='',kind='';
    for(const line of part.split('\\n')){
     if(line.startsWith('data: '))item+=line.slice(6)+'\\n';
     if(line.startsWith('event: '))kind=line.slice(7);
    }
    if(kind==='error'){say(item.trim(),true);halt();return}
    show(item,true);
   }
  }
  if(stop===mine){halt();say('The stream has ended.')}
 }catch(e){if(stop===mine){halt();say(e.message,true)}}
}
$('login').onsubmit=e=>{e.preventDefault();token=$('token').value.trim();
 $('token').value='';list()};
$('get').onclick=get;$('watch').onclick=watch;$('halt').onclick=()=>{halt();say('Stopped.')};
list();
"""

_BODY = b"""
<h1>Keyferry gateway</h1>
<form id="login" hidden><label for="token">Your token</label>
<input id="token" type="password" autocomplete="off" required>
<button>Go on</button></form>
<section id="found" hidden><p>Destinations for <b id="who"></b></p><ul id="list"></ul></section>
<section id="data" hidden><label for="path">What to ask <b id="name"></b></label>
<input id="path" maxlength="128" autocapitalize="none" autocomplete="off" value="status">
<button id="get">Ask</button><button id="watch">Watch</button><button id="halt" hidden>Stop</button>
</section>
<p id="state" role="status"></p>
<pre id="out" aria-live="polite" aria-label="Data"></pre>
<p class="note">This gateway can read what is shown here.</p>
"""


def page() -> bytes:
    """The document, about 6 KiB."""
    head = b'<!doctype html><html lang="en"><meta charset="utf-8"><title>Keyferry gateway</title>'
    view = b'<meta name="viewport" content="width=device-width,initial-scale=1">'
    icon = b'<link rel="icon" href="data:,">'  # or the browser asks for one
    style = b"<style>" + STYLE + b"</style>"
    return head + view + icon + style + _BODY + b"<script>" + SCRIPT + b"</script></html>"


def policy() -> str:
    """Content-Security-Policy of the page."""
    return (
        "default-src 'none'; connect-src 'self'; img-src data:; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'; script-src 'sha256-"
        + _hash(SCRIPT)
        + "'; style-src 'sha256-"
        + _hash(STYLE)
        + "'"
    )


def _hash(text: bytes) -> str:
    return binascii.b2a_base64(sha256(text)).decode().strip()
