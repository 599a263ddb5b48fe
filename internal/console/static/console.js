// Live updates; every page works without this file.
"use strict";
(() => {
  const region = document.getElementById("live");
  const busy = () => region.contains(document.activeElement) && document.activeElement.matches("input, select, textarea");

  // What changes on a page comes as HTML from the server, and only when it has changed.
  function follow() {
    const source = new EventSource(region.dataset.live);
    source.addEventListener("update", (e) => {
      if (busy()) return;
      const focus = document.activeElement && region.contains(document.activeElement) ? document.activeElement.id : "";
      const open = new Set([...region.querySelectorAll("details[open][id]")].map((d) => d.id));
      region.innerHTML = e.data;
      for (const id of open) document.getElementById(id)?.setAttribute("open", "");
      if (focus) document.getElementById(focus)?.focus();
    });
    source.addEventListener("append", (e) => append(e.data));
    addEventListener("pagehide", () => source.close());
    addEventListener("pageshow", (e) => { if (e.persisted) follow(); });
  }

  // New lines of a log go to its end, which stays in view if it was.
  function append(html) {
    const list = region.querySelector("[data-lines]");
    if (!list) return;
    const box = list.closest(".log");
    const atEnd = box.scrollHeight - box.scrollTop - box.clientHeight < 40;
    list.insertAdjacentHTML("beforeend", html);
    while (list.rows.length > 2000) list.deleteRow(0);
    document.getElementById("nolines")?.remove();
    if (atEnd) box.scrollTop = box.scrollHeight;
  }

  if (region?.dataset.live) follow();
  const log = document.querySelector(".log");
  if (log) log.scrollTop = log.scrollHeight;

  // What a deployment's check says while it is being typed.
  const form = document.querySelector("form[data-check]");
  if (form) {
    const result = document.getElementById("check");
    let timer = 0, asked = 0;
    const check = async () => {
      const mine = ++asked;
      const body = new URLSearchParams(new FormData(form));
      try {
        const answer = await fetch(form.dataset.check, { method: "POST", body });
        const html = await answer.text();
        if (answer.ok && mine === asked) result.innerHTML = html;
      } catch { /* the button still works */ }
    };
    form.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(check, 600); });
  }
})();
