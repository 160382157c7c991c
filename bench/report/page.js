"use strict";
(() => {
  const charts = JSON.parse(document.getElementById("data").textContent);
  const digits = (v) => v.toLocaleString("en", {
    minimumFractionDigits: 0, maximumFractionDigits: Math.abs(v) < 9.995 ? 2 : Math.abs(v) < 99.95 ? 1 : 0 });
  const shown = (v, unit) => {
    if (v === null || v === undefined) return "-";
    if (unit === "ns") {
      const [name, size] = [["ns", 1], ["us", 1e3], ["ms", 1e6], ["s", 1e9]].find(([n, s]) => n === "s" || Math.abs(v) < 999.5 * s);
      return digits(v / size) + " " + name;
    }
    if (unit === "share") return digits(v * 100) + "%";
    if (unit === "bytes") return digits(v / 1e9) + " GB";
    return digits(v) + (unit === "1/s" ? "/s" : unit && " " + unit);
  };
  const name = (group, x) => group === "percentile"
    ? "p" + Number((100 * (1 - 10 ** -x)).toPrecision(Math.ceil(x) + 1)) : digits(x) + (group === "rate" ? "/s" : " s");
  const nearest = (places, count, x) => {
    if (places.length === 2) {
      const found = Math.round((x - places[0]) / places[1]);
      return found >= 0 && found < count ? found : -1;
    }
    let best = -1;
    places.forEach((p, i) => { if (best < 0 || Math.abs(p - x) < Math.abs(places[best] - x)) best = i; });
    return best;
  };
  const plots = [...document.querySelectorAll(".plot[data-chart]")].map((box) => {
    const chart = charts[box.dataset.chart];
    return { box, chart, svg: box.querySelector("svg"), cross: box.querySelector(".cross"), read: box.parentNode.querySelector(".read") };
  });
  const place = (group, x) => plots.filter((p) => p.chart.group === group).forEach(({ chart, cross, read }) => {
    const [begin, end, low, high] = chart.x;
    const inside = x !== null && x >= low && x <= high;
    cross.setAttribute("d", inside ? `M${begin + (x - low) / (high - low) * (end - begin)} ${chart.y[0]}V${chart.y[1]}` : "");
    read.textContent = !inside || !chart.lines.length ? "" : name(group, x) + ": " + chart.lines.map(([line, places, values]) =>
      `${line} ${shown(values[nearest(places, values.length, x)], chart.unit)}`).join(", ");
  });
  document.querySelector("footer span").hidden = false;
  let at = null;
  plots.forEach(({ box, chart, svg, read }) => {
    const [begin, end, low, high] = chart.x;
    const move = (x) => { at = Math.min(Math.max(x, low), high); place(chart.group, at); };
    box.addEventListener("pointermove", (event) => {
      const frame = svg.getBoundingClientRect();
      const px = (event.clientX - frame.left) / frame.width * svg.viewBox.baseVal.width;
      if (px >= begin && px <= end) move(low + (px - begin) / (end - begin) * (high - low));
    });
    box.addEventListener("pointerleave", () => place(chart.group, null));
    box.addEventListener("focus", () => read.setAttribute("aria-live", "polite"));
    box.addEventListener("blur", () => { read.removeAttribute("aria-live"); place(chart.group, null); });
    box.addEventListener("keydown", (event) => {
      const step = (high - low) / (event.shiftKey ? 10 : 100);
      const next = { ArrowLeft: (at ?? high) - step, ArrowRight: (at ?? low) + step, Home: low, End: high }[event.key];
      if (event.key === "Escape") place(chart.group, null);
      if (next !== undefined) { event.preventDefault(); move(next); }
    });
  });
})();
