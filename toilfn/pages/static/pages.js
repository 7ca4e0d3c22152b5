/* Pages of toilfn: news by server-sent events (polling where these fail), curves, logs that follow. No inline code. */
"use strict";
(() => {
  const POLL = 5000;

  function news() { if (window.htmx) htmx.trigger(document.body, "news"); }

  function listen() {
    const url = document.body.dataset.events;
    if (!url || !window.EventSource) return;
    let polling = null;
    const source = new EventSource(url);
    source.addEventListener("news", news);
    source.onopen = () => { clearInterval(polling); polling = null; };
    source.onerror = () => { if (polling === null) polling = setInterval(news, POLL); };
    window.addEventListener("pagehide", () => source.close());
  }

  function color(name) { return getComputedStyle(document.documentElement).getPropertyValue(name).trim(); }

  function span(seconds) {
    if (seconds < 60) return +seconds.toFixed(1) + "s";
    if (seconds < 3600) return +(seconds / 60).toFixed(1) + "m";
    return seconds < 172800 ? +(seconds / 3600).toFixed(1) + "h" : +(seconds / 86400).toFixed(1) + "d";
  }

  function short(value) {
    return value >= 1e6 ? value / 1e6 + "M" : value >= 1e4 ? value / 1e3 + "k" : +value.toPrecision(4) + "";
  }

  function curve(box, data) {
    const chart = data.charts[box.dataset.curve];
    if (!chart || !window.uPlot) return;
    const columns = [data.times], series = [{ label: "time", value: (_, v) => v == null ? "" : span(v) }];
    const colors = [color("--accent"), color("--second")];
    Object.entries(chart).forEach(([name, levels], n) => {
      columns.push(levels.means, levels.peaks);
      const show = (_, v) => v == null ? "" : short(v);
      series.push({ label: name, stroke: colors[n], width: n ? 1.5 : 1, fill: n ? undefined : colors[n] + "40", value: show, points: { show: false } });
      series.push({ label: name + ", peak", stroke: colors[n], width: 0.6, alpha: 0.7, value: show, points: { show: false } });
    });
    const axis = { stroke: color("--muted"), grid: { stroke: color("--line"), width: 1 }, ticks: { show: false }, font: "11px system-ui, sans-serif" };
    box.replaceChildren();
    new uPlot({
      width: Math.max(240, box.clientWidth), height: 170, padding: [8, 8, 0, 0], legend: { live: true },
      scales: { x: { time: false }, y: { range: (_, low, high) => [0, (high || 1) * 1.05] } },
      cursor: { drag: { x: true, y: false }, sync: { key: "curves" } },
      axes: [{ ...axis, values: (_, ticks) => ticks.map(span), size: 28 }, { ...axis, values: (_, ticks) => ticks.map(short), size: 44 }],
      series,
    }, columns, box);
  }

  function curves() {
    const source = document.getElementById("curves");
    if (!source) return;
    const data = JSON.parse(source.textContent);
    document.querySelectorAll("[data-curve]").forEach((box) => curve(box, data));
  }

  function follow() {
    const log = document.querySelector("[data-live]");
    if (!log || !window.EventSource) return;
    const source = new EventSource(log.dataset.live);
    source.addEventListener("text", (event) => {
      const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 30;
      log.append(JSON.parse(event.data));
      if (atEnd) log.scrollTop = log.scrollHeight;
    });
    source.addEventListener("over", () => { source.close(); location.reload(); });
    window.addEventListener("pagehide", () => source.close());
  }

  function confirmed(event) {
    const text = event.target.dataset && event.target.dataset.confirm;
    if (text && !window.confirm(text)) event.preventDefault();
  }

  // What a person has opened, or moves in, stays as it is when news come.
  let opened = null, focused = "";
  document.addEventListener("htmx:beforeSwap", (event) => {
    const details = [...document.querySelectorAll("details")];
    opened = new Map(details.map((each) => [each.querySelector("summary").textContent, each.open]));
    const active = document.activeElement;
    focused = active && active.getAttribute("href") || "";
    if (event.detail.target.id === "live" && window.getSelection().toString()) event.detail.shouldSwap = false;
  });
  document.addEventListener("htmx:afterSettle", () => {
    document.querySelectorAll("details").forEach((each) => {
      const before = opened && opened.get(each.querySelector("summary").textContent);
      if (before !== undefined && before !== null) each.open = before;
    });
    if (focused) { const again = document.querySelector(`a[href="${CSS.escape(focused)}"]`); if (again) again.focus({ preventScroll: true }); }
    curves();
  });
  document.addEventListener("submit", confirmed);
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && !/INPUT|TEXTAREA|SELECT/.test(document.activeElement.tagName)) {
      const search = document.querySelector("input[type=search]");
      if (search) { event.preventDefault(); search.focus(); }
    }
  });
  let wait = null;
  window.addEventListener("resize", () => { clearTimeout(wait); wait = setTimeout(curves, 200); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", curves);
  const begin = () => { listen(); follow(); curves(); };
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", begin); else begin();
})();
