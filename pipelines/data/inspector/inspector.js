"use strict";
// The inspector of a build. It runs from file://, so data are classic scripts that call `wordweave(name, value)`.
// Text of the corpus goes into the page as text nodes only, never as HTML.
(() => {
  const loaded = {};
  const waiting = {};
  let build; // what data/overview.js holds
  let player = null; // of the utterance that is shown
  const main = document.getElementById("main");

  window.wordweave = (name, value) => {
    if (name === "overview") {
      build = value;
      start();
    } else {
      loaded[name] = value;
      (waiting[name] || []).forEach((resolve) => resolve(value));
    }
  };

  const load = (file) => new Promise((resolve, reject) => {
    if (loaded[file]) return resolve(loaded[file]);
    (waiting[file] = waiting[file] || []).push(resolve);
    const script = element("script", { src: file, onerror: () => reject(new Error(`${file}: cannot be loaded`)) });
    document.head.append(script);
  });

  // Elements and numbers ---------------------------------------------------------------------------------------------

  function element(tag, attributes = {}, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) node[name] = value;
      else if (value === true) node.setAttribute(name, "");
      else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value);
    }
    node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
    return node;
  }

  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  const whole = (value) => value.toLocaleString("en");
  const plural = (count, noun) => `${whole(count)} ${noun}${count === 1 ? "" : "s"}`;

  function number(value) {
    if (value === null || value === undefined) return "–";
    if (typeof value !== "number") return String(value);
    if (Number.isInteger(value)) return whole(value);
    return value.toLocaleString("en", Math.abs(value) >= 1000 ? { maximumFractionDigits: 0 } : { maximumSignificantDigits: 3 });
  }

  function time(hours) {
    if (hours >= 1) return `${hours.toLocaleString("en", { maximumFractionDigits: hours < 10 ? 2 : 1 })} h`;
    if (hours >= 1 / 60) return `${(60 * hours).toFixed(1)} min`;
    return `${(3600 * hours).toFixed(1)} s`;
  }

  const percent = (part, all) => (all ? `${(100 * part / all).toFixed(1)} %` : "–");

  /** A table; each column is [title, function of a row, "n" for numbers or "optional" on narrow screens]. */
  function table(label, columns, rows) {
    const head = columns.map(([title, , kind]) => element("th", { scope: "col", class: kind }, title));
    const body = rows.map((row) => element("tr", {}, columns.map(([, cell, kind]) => element("td", { class: kind }, cell(row)))));
    return element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": label },
      element("table", {}, element("thead", {}, element("tr", {}, head)), element("tbody", {}, body)));
  }

  const card = (name, value, ...notes) => element("div", { class: "card" }, element("small", {}, name), element("b", {}, value),
    notes.map((note) => element("small", {}, note, element("br"))));

  const section = (title, ...children) => [element("h2", {}, title), ...children];

  // Plots ------------------------------------------------------------------------------------------------------------

  const axis = (more = {}) => ({ stroke: color("soft"), grid: { stroke: color("grid"), width: 1 }, ticks: { show: false }, font: "12px system-ui", ...more });

  /** A figure with a plot; `series` are {label, color, values, line}, and the text says what the plot shows. */
  function plot(title, note, x, series, { xlabel = "", height = 150, log = false, dashes = [] } = {}) {
    const box = element("div", { class: "plot", role: "img", "aria-label": `${title}. ${note}` });
    const keys = series.length > 1 && series.map((one) => [element("span", { class: "key", style: `background:${one.color}` }), one.label]);
    const figure = element("figure", {}, element("figcaption", {}, element("b", {}, title), (keys || []).flat(), element("br"), note), box);
    const step = x.length > 1 ? x[1] - x[0] : 1;
    const options = {
      width: 320, height, legend: { show: false }, cursor: { show: false },
      scales: {
        x: { time: false, range: (_, low, high) => (series[0].line ? [low, high] : [low - step / 2, high + step / 2]) },
        y: log ? { distr: 3 } : { range: (_, low, high) => (series[0].line && low > 0 && !series[0].zero ? [0.95 * low, 1.05 * high] : [0, high * 1.05 || 1]) },
      },
      axes: [axis({ label: xlabel || undefined, labelSize: xlabel ? 20 : 0, labelFont: "12px system-ui", size: 30, values: (_, ticks) => ticks.map(short) }),
        axis({ size: 48, values: (_, ticks) => ticks.map((tick) => (tick === null ? "" : short(tick))) })],
      series: [{}, ...series.map((one) => ({
        label: one.label, stroke: one.color, width: one.line ? 2 : 0, fill: one.line ? undefined : one.color, dash: one.dash,
        spanGaps: true, points: { show: one.points || false, size: 5 }, paths: one.line ? undefined : uPlot.paths.bars({ size: [0.86, 100], align: one.align || 0 }),
      }))],
    };
    requestAnimationFrame(() => {
      if (!box.isConnected) return;
      const chart = new uPlot({ ...options, width: box.clientWidth }, [x, ...series.map((one) => one.values)], box);
      new ResizeObserver(() => chart.setSize({ width: box.clientWidth, height })).observe(box);
    });
    return figure;
  }

  const short = (value) => (Math.abs(value) >= 1e6 ? `${+(value / 1e6).toPrecision(3)}M` : Math.abs(value) >= 1e4 ? `${+(value / 1e3).toPrecision(3)}k` : `${+value.toPrecision(3)}`);
  const centres = (edges) => edges.slice(1).map((edge, index) => (edge + edges[index]) / 2);

  function histogram(title, entry, xlabel, tone = "accent") {
    const note = `${entry.meaning}; median ${number(entry.median)}, mean ${number(entry.mean)}, ${plural(entry.count, "utterance")}`;
    return plot(title, note, centres(entry.edges), [{ label: title, color: color(tone), values: entry.counts }], { xlabel });
  }

  // Overview ---------------------------------------------------------------------------------------------------------

  function overview() {
    const { report, units, measures, durations } = build;
    const all = report.in.samples;
    const amount = (name, title) => card(title, time(report[name].hours), plural(report[name].utterances, "utterance"), `${whole(report[name].samples)} samples`);
    const parts = [["a", report.interleaved, "interleaved"], ["b", report.speech_alone, "speech only"], ["d", report.cut_away, "cut away"], ["c", report.rejected, "rejected"]];
    const share = parts.filter(([kind, part]) => kind !== "d" || part.samples).map(([, part, name]) => `${percent(part.samples, all)} ${name}`).join(", ");
    const { parts: { shown, all: everything } } = build;
    const partial = shown < everything && element("p", {}, `Speakers, durations, measures and units are of ${whole(shown)} of the ${whole(everything)} parts of the build, those of lowest hash; hours, rejects, shards and tokens are of all of it.`);
    const page = [
      ...section("Hours",
        element("div", { class: "cards" }, amount("in", "in"), amount("out", "kept, in a shard"), report.cut_away.samples ? amount("cut_away", "cut away") : "", amount("rejected", "rejected"),
          card("speakers", whole(build.groups.speaker.count), plural(build.groups.language.count, "language"), plural(build.groups.licence.count, "licence"))),
        element("div", { class: "bar", role: "img", "aria-label": share }, parts.map(([kind, part]) => element("i", { class: kind, style: `width:${all ? 100 * part.samples / all : 0}%` }))),
        element("p", { class: "soft" }, `${share}. Sums are exact, in samples at 16 kHz: in = kept + ${report.cut_away.samples ? "cut away + " : ""}rejected.`), partial || ""),
      ...changes("Compared with " + (build.against ? build.against.build : ""), build.against && build.against.rows, build.against && build.against.build, "The builds do not differ."),
      ...section("Rejected, by reason", reasons()),
    ];
    const figures = [plot("Duration, seconds", `${plural(report.in.utterances, "utterance")}; the last bar holds what is longer`, centres(durations.edges), [
      { label: "kept", color: color("accent"), values: durations.accepted.map((count, index) => count + durations.rejected[index]) },
    ].concat(durations.rejected.some(Boolean) ? [{ label: "rejected", color: color("bad"), values: durations.rejected }] : []))];
    if (measures.words_per_second) figures.push(histogram("Speaking rate, words per second", measures.words_per_second));
    page.push(...section("Speech", element("div", { class: "plots" }, figures)));
    const alignment = Object.entries(measures).filter(([name]) => name !== "words_per_second");
    if (alignment.length) {
      const first = ["agreement_ms", "mean_confidence", "uncovered_share", "snr"];
      const order = ([name]) => (first.includes(name) ? first.indexOf(name) : first.length);
      const sorted = alignment.sort((one, other) => order(one) - order(other));
      const draw = ([name, entry]) => histogram(name.replaceAll("_", " "), entry, "", "speech");
      const notes = element("dl", {}, sorted.map(([name, entry]) => [element("dt", {}, element("code", {}, name)), element("dd", {}, entry.meaning)]));
      const more = sorted.slice(6);
      page.push(...section("Alignment quality", element("div", { class: "plots" }, sorted.slice(0, 6).map(draw)),
        lazy("All measures and what they mean", () => [element("div", { class: "plots" }, more.map(draw)), notes])));
    }
    if (units) page.push(...section("Units", ...codebook(units)));
    if (report.shards) page.push(...section("Shards and tokens", ...shards(report)));
    page.push(...section("Interleaving", ...interleaving()));
    page.push(...section("Speakers, languages, licences", element("div", { class: "two" }, ["speaker", "language", "licence"].map(group))));
    if (build.training) page.push(...section("Training", ...training(build.training)));
    if (build.evaluation) page.push(...section("Evaluation", evaluation(build.evaluation)));
    page.push(...changes("Changed since the build was last different", build.changes, "before", "Nothing."));
    return page;
  }

  function lazy(title, make) {
    let made = false;
    const details = element("details", {}, element("summary", {}, title));
    details.addEventListener("toggle", () => {
      if (details.open && !made) details.append(...make());
      made = made || details.open;
    });
    return details;
  }

  function reasons() {
    const rows = Object.entries(build.report.reasons);
    if (!rows.length) return element("p", {}, "Nothing was rejected.");
    const kept = build.report.speech_alone.utterances ? "; some of these are kept as speech only" : "";
    return element("div", {}, table("Reasons for rejects", [
      ["reason", ([reason]) => link(reason, `#utterances=${reason.startsWith("cut.") ? "cut away" : "rejected"}: ${reason}`)],
      ["meaning", ([, entry]) => entry.meaning, "optional"],
      ["utterances", ([, entry]) => whole(entry.utterances), "n"],
      ["time", ([, entry]) => time(entry.hours), "n"],
      ["samples", ([, entry]) => whole(entry.samples), "n optional"],
    ], rows), element("p", { class: "soft" }, "All of them, with file and detail: ", element("a", { href: "rejects.jsonl" }, "rejects.jsonl"), kept));
  }

  function codebook(units) {
    const shares = units.counts.filter(Boolean).map((count) => 100 * count / units.frames);
    const runs = units.run_lengths;
    return [
      element("div", { class: "cards" },
        card("used", `${whole(units.used)} of ${whole(units.clusters)}`, plural(units.dead, "dead unit")),
        card("perplexity", number(units.perplexity), `${number(units.entropy)} bits per frame`),
        card("bitrate", `${number(units.bitrate)} bits/s`, `${number(units.bitrate_deduplicated)} deduplicated`),
        card("units per second", number(units.frame_rate), `${number(units.runs_per_second)} deduplicated`)),
      element("div", { class: "plots", style: "margin-top:.8rem" },
        plot("Share of frames of each unit, %", "most used first, logarithmic", shares.map((_, index) => index + 1),
          [{ label: "share", color: color("accent"), values: shares, line: true }], { log: true }),
        plot("Length of runs, frames", `mean ${number(runs.mean)}, median ${number(runs.median)}, longest ${number(runs.longest)}; the last bar is 20 and more`,
          runs.histogram.map((_, index) => index + 1), [{ label: "runs", color: color("accent"), values: runs.histogram }])),
    ];
  }

  function shards(report) {
    const kinds = ["text", "unit", "pitch", "style", "marker"];
    const rows = Object.entries(report.shards);
    const seconds = report.shards.speech.audio_samples / 16000;
    const rates = kinds.slice(1, 4).filter((kind) => report.shards.speech.tokens[kind])
      .map((kind) => `${number(report.shards.speech.tokens[kind] / seconds)} ${kind}`);
    const present = kinds.filter((kind) => rows.some(([, entry]) => entry.tokens[kind]));
    return [table("Shards", [
      ["stream", ([name]) => name], ["shards", ([, entry]) => whole(entry.shards), "n optional"],
      ["examples", ([, entry]) => whole(entry.samples), "n"], ["held out", ([, entry]) => whole(entry.valid), "n optional"],
      ["time", ([, entry]) => time(entry.audio_samples / 57600000), "n"],
      ...present.map((kind) => [kind, ([, entry]) => whole(entry.tokens[kind] || 0), "n"]),
      ["MB", ([, entry]) => (entry.bytes / 1e6).toFixed(1), "n optional"],
    ], rows), rates.length ? element("p", { class: "soft" }, `Tokens per second in the speech stream, deduplicated: ${rates.join(", ")}.`) : ""];
  }

  function interleaving() {
    const { text, speech } = build.spans;
    const words = (lengths) => lengths.reduce((sum, [length, count]) => sum + length * count, 0);
    const count = (lengths) => lengths.reduce((sum, [, number_]) => sum + number_, 0);
    if (!text.length && !speech.length) return [element("p", {}, "No utterance has words.")];
    const longest = Math.max(...[...text, ...speech].map(([length]) => length));
    const values = (lengths) => Array.from({ length: longest }, (_, index) => (lengths.find(([length]) => length === index + 1) || [0, 0])[1]);
    const settings = Object.fromEntries(build.settings.interleave.map(([name, value]) => [name, value]));
    const mean = (lengths) => (count(lengths) ? words(lengths) / count(lengths) : 0);
    const note = `strategy ${settings.strategy}; ${whole(build.measured)} utterances`;
    return [element("div", { class: "cards" },
      card("words spoken", percent(words(speech), words(speech) + words(text)), `${whole(words(speech))} of ${whole(words(speech) + words(text))} words`),
      card("speech spans", whole(count(speech)), `mean ${number(mean(speech))} words`),
      card("text spans", whole(count(text)), `mean ${number(mean(text))} words`)),
    element("div", { class: "plots", style: "margin-top:.8rem" },
      ...[["Speech spans, words", speech, "speech"], ["Text spans, words", text, "text"]].map(([title, lengths, tone]) =>
        plot(title, note, values(lengths).map((_, index) => index + 1), [{ label: title, color: color(tone), values: values(lengths) }])))];
  }

  function group(name) {
    const { most, others, count } = build.groups[name];
    const title = `${count} ${name}${count === 1 ? "" : "s"}`;
    const rows = [...most, ...(others ? [["all others", others]] : [])];
    return element("div", {}, element("h3", {}, title), rows.length
      ? table(title, [[name, ([one]) => one || "unknown", "wrap"], ["time", ([, hours]) => time(hours), "n"]], rows.slice(0, 10)) : "",
      rows.length > 10 ? lazy(`The next ${rows.length - 10}`, () => [table(`More of ${title}`, [[name, ([one]) => one || "unknown", "wrap"], ["time", ([, hours]) => time(hours), "n"]], rows.slice(10))]) : "");
  }

  function training({ mixture, loss, held_out: held }) {
    const names = Object.keys(held);
    const tones = { text: "text", speech: "speech", interleaved: "bad" };
    const points = [...new Set([...loss, ...names.flatMap((name) => held[name].loss)].map(([tokens]) => tokens))].sort((one, other) => one - other);
    const along = (curve) => { const known = new Map(curve); return points.map((tokens) => known.get(tokens) ?? null); };
    const series = [{ label: "training", color: color("wave"), values: along(loss), line: true },
      ...names.map((name) => ({ label: `held out, ${name}`, color: color(tones[name] || "second"), values: along(held[name].loss), line: true, points: true }))];
    const weights = mixture && Object.entries(mixture).map(([name, weight]) => `${name} ${number(weight)}`).join(", ");
    const entropies = names.map((name) => `${name} ${number(held[name].unigram_entropy)}`).join(", ");
    return [element("div", { class: "plots large" }, plot("Loss, nats per token", `unigram entropies: ${entropies || "–"}; mixture: ${weights || "unknown"}`, points, series, { xlabel: "tokens", height: 260 }))];
  }

  const evaluation = (rows) => table("Evaluation", [
    ["test set", (row) => row.testset], ["direction", (row) => row.direction], ["measure", (row) => row.measure],
    ["value", (row) => (row.values ? number(row.values[0]) : "not run"), "n"],
    ["95 % interval", (row) => (row.values ? `${number(row.values[1])} to ${number(row.values[2])}` : ""), "n optional"],
  ], rows);

  function changes(title, rows, before, nothing) {
    if (!rows) return [];
    const difference = (row) => (typeof row[1] === "number" && typeof row[2] === "number" ? `${row[2] > row[1] ? "+" : ""}${number(row[2] - row[1])}` : "");
    return section(title, rows.length ? table(title, [["", (row) => row[0]], [before, (row) => number(row[1]), "n wrap"], [build.build, (row) => number(row[2]), "n wrap"],
      ["difference", difference, "n"]], rows) : element("p", {}, nothing));
  }

  // The build's settings ---------------------------------------------------------------------------------------------

  function settings() {
    const value = (one) => (typeof one === "string" ? one || "“”" : JSON.stringify(one));
    const sections = Object.entries(build.settings).map(([name, rows]) => element("div", {}, element("h3", {}, `[${name}]`),
      table(`[${name}]`, [["setting", (row) => element("span", { class: row[2] ? "changed" : "" }, row[0])],
        ["value", (row) => element("code", { class: row[2] ? "changed" : "" }, value(row[1]))]], rows)));
    const flat = Object.entries(build.provenance).flatMap(([name, one]) => (one && typeof one === "object" ? Object.entries(one) : [[name, one]]));
    return [...section("Settings", element("p", { class: "soft" }, "Bold: not the default."), element("div", { class: "two" }, sections)),
      ...section("Provenance", flat.length ? table("Provenance", [["", (row) => row[0]], ["", (row) => element("code", {}, row[1] ?? "–")]].map((column, index) => [["what", "version or hash"][index], column[1]]), flat) : element("p", {}, "The build has no shards yet."))];
  }

  // Utterances -------------------------------------------------------------------------------------------------------

  const link = (text, target) => element("a", { href: target.replace(/=(.*)$/s, (_, value) => `=${encodeURIComponent(value)}`) }, text);
  const list = { query: "", stratum: "", column: -1, up: true };

  function utterances(stratum) {
    if (stratum !== undefined) Object.assign(list, { stratum, query: "" });
    const strata = [...new Set(build.utterances.flatMap((row) => row.strata))];
    const columns = [
      ["id", (row) => row.id], ["sample of", (row) => row.strata.join(", "), "optional"], ["seconds", (row) => row.seconds, "n"], ["words", (row) => row.words, "n optional"],
      ["confidence", (row) => row.mean_confidence, "n optional"], ["disagreement, ms", (row) => row.agreement_ms, "n optional"], ["speaker", (row) => row.speaker, "optional"], ["text", (row) => row.text, "text"],
    ].filter(([, value]) => build.utterances.some((row) => value(row) !== null && value(row) !== undefined));
    const status = element("p", { class: "soft", role: "status" });
    const body = element("tbody");
    const heads = columns.map(([title, , kind], index) => element("th", { scope: "col", class: kind }, element("button", { type: "button", onclick: () => {
      list.up = list.column === index ? !list.up : true;
      list.column = index;
      fill();
    } }, title)));
    function fill() {
      const query = list.query.toLowerCase();
      const rows = build.utterances.filter((row) => (!list.stratum || row.strata.includes(list.stratum))
        && [row.id, row.text, row.speaker, row.language, row.reason].some((value) => (value || "").toLowerCase().includes(query)));
      if (list.column >= 0) {
        const value = columns[list.column] ? columns[list.column][1] : (row) => row.id;
        const order = (one, other) => (typeof one === "number" && typeof other === "number" ? one - other : String(one ?? "").localeCompare(String(other ?? "")));
        rows.sort((one, other) => (list.up ? 1 : -1) * order(value(one), value(other)));
      }
      heads.forEach((head, index) => {
        if (index === list.column) head.setAttribute("aria-sort", list.up ? "ascending" : "descending");
        else head.removeAttribute("aria-sort");
      });
      body.replaceChildren(...rows.map((row) => element("tr", {}, columns.map(([title, value, kind]) => element("td", { class: kind || title },
        title === "id" ? link(row.id, `#utterance=${row.link}`)
          : title === "sample of" ? row.strata.map((one) => element("span", { class: `tag ${one.includes(": ") ? "bad" : ""}` }, one))
            : title === "words" ? number(value(row)) : typeof value(row) === "number" ? value(row).toFixed(title === "confidence" ? 2 : 1) : value(row) ?? "–")))));
      status.textContent = `${rows.length} of ${build.utterances.length} sampled utterances`;
    }
    const select = element("select", { onchange: (event) => { list.stratum = event.target.value; fill(); } }, element("option", { value: "" }, "all"),
      strata.map((name) => element("option", { value: name, selected: name === list.stratum }, name)));
    const search = element("input", { type: "search", value: list.query, oninput: (event) => { list.query = event.target.value; fill(); } });
    fill();
    const ranked = build.ranked_by.length ? `; worst aligned is by ${build.ranked_by.join(", ")}` : "";
    return [element("h2", {}, "Utterances"),
      element("p", { class: "soft" }, `A sample: typical is a random choice by hash of the id${ranked}; of the rejected a few for each reason.`),
      element("div", { class: "tools" }, element("label", {}, "Search", search), element("label", {}, "Sample of", select)), status,
      element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Utterances" }, element("table", {}, element("thead", {}, element("tr", {}, heads)), body))];
  }

  // One utterance ----------------------------------------------------------------------------------------------------

  async function utterance(id) {
    const index = build.utterances.findIndex((row) => row.link === id);
    if (index < 0) return [element("h2", {}, "Utterance"), element("p", {}, `${id}: not in the sample of this report.`), link("All utterances", "#utterances")];
    const detail = await load(build.utterances[index].file);
    const neighbour = (step, text) => { const row = build.utterances[index + step]; return row ? link(text, `#utterance=${row.link}`) : ""; };
    const facts = [`${detail.seconds.toFixed(2)} s`, detail.speaker || "speaker unknown", detail.language, detail.licence, detail.outcome].filter(Boolean).join(" · ");
    const words = detail.words.map(([text, start, end]) => element("button", { type: "button", class: "word", title: `${start.toFixed(2)} to ${end.toFixed(2)} s` }, text));
    const page = [
      element("div", { class: "pager" }, element("h2", {}, detail.id), neighbour(-1, "Previous"), neighbour(1, "Next"), link("All utterances", "#utterances")),
      element("p", { class: "soft" }, facts, " ", detail.strata.map((one) => element("span", { class: `tag ${one.includes(": ") ? "bad" : ""}` }, one))),
    ];
    if (detail.reason) page.push(element("p", {}, element("b", {}, detail.reason), `: ${detail.detail || detail.meaning}`));
    if (detail.text) page.push(element("p", {}, detail.text));
    const view = makePlayer(detail, words);
    page.push(...view.nodes);
    if (detail.words.length) page.push(element("h2", {}, detail.spans ? "Interleaved sequence" : "Words"), sequence(detail, words));
    if (detail.words.length) {
      page.push(lazy("Words and times", () => [table("Words and times", [
        ["word", (word) => word[0]], ["start, s", (word) => word[1].toFixed(2), "n"], ["end, s", (word) => word[2].toFixed(2), "n"],
        ["confidence", (word) => (word[3] === null ? "–" : word[3].toFixed(2)), "n"], ["disagreement, ms", (word) => (word[4] === null ? "–" : word[4].toFixed(0)), "n"],
      ], detail.words)]));
    }
    const measures = Object.entries(detail.measures);
    if (measures.length) page.push(lazy("Measures of the alignment", () => [table("Measures of the alignment", [["measure", ([name]) => element("code", {}, name)],
      ["value", ([, value]) => number(value), "n"], ["meaning", ([name]) => (build.measures[name] || {}).meaning || "", "optional"]], measures)]));
    if (detail.quality) page.push(lazy("Quality of sound and text", () => [table("Quality of sound and text", [["measure", ([name]) => element("code", {}, name)],
      ["value", ([, value]) => (typeof value === "string" ? value : number(value)), "n"], ["unit", ([, , unit]) => unit], ["meaning", ([, , , meaning]) => meaning, "optional"]], detail.quality)]));
    return page;
  }

  function sequence(detail, words) {
    if (!detail.spans) return element("div", { class: "panel sequence" }, words.flatMap((word) => [word, " "]));
    return element("div", { class: "panel sequence" }, detail.spans.map((span) => element("div", { class: `span ${span.speech ? "speech" : "text"}` }, element("b", {}, span.marker),
      words.slice(span.first, span.last).flatMap((word) => [word, " "]), span.speech ? element("span", { class: "tokens" }, span.tokens) : "")));
  }

  /** Player and tracks of an utterance on one time axis. */
  function makePlayer(detail, words) {
    const seconds = detail.shown || 1;
    const wide = element("div", { class: "wide" });
    const tracks = element("div", { class: "tracks", tabindex: 0, role: "region", "aria-label": "Waveform, words, units, pitch and style over time" }, wide);
    const cursor = element("div", { class: "cursor" });
    const drawn = [];
    const track = (label, height, draw, kind = "") => {
      const canvas = element("canvas", { role: "img", "aria-label": label, class: kind, style: `height:${height}px` });
      wide.append(element("span", { class: "label" }, label), canvas);
      drawn.push(() => paint(canvas, height, seconds, draw));
      return canvas;
    };
    const nodes = [];
    if (detail.problem) nodes.push(element("p", { class: "soft" }, `No audio: ${detail.problem}`));
    if (detail.shown < detail.seconds - 0.01) nodes.push(element("p", { class: "soft" }, `The first ${detail.shown.toFixed(0)} of ${detail.seconds.toFixed(0)} s.`));
    const audio = detail.audio ? element("audio", { src: detail.audio, preload: "auto" }) : null;
    const wave = element("div", { class: "wave" });
    let stopAt = null;
    let frame = 0;
    let zoom = 1;
    const seek = (to) => { if (audio) { audio.currentTime = Math.max(0, Math.min(seconds, to)); follow(); } };
    const playWord = (index) => { const [, start, end] = detail.words[index]; stopAt = end; audio.currentTime = start; audio.play(); };
    const toggle = () => { stopAt = null; if (audio.paused) audio.play(); else audio.pause(); };
    if (audio) {
      const button = element("button", { type: "button", class: "main", onclick: toggle }, "Play");
      const position = element("input", { type: "range", min: 0, max: seconds, step: 0.01, value: 0, "aria-label": "Position, seconds", oninput: (event) => { stopAt = null; seek(+event.target.value); } });
      const clock = element("output", {}, `0.00 / ${seconds.toFixed(2)} s`);
      const speed = element("select", { onchange: (event) => { audio.playbackRate = +event.target.value; } }, [0.5, 0.75, 1, 1.5].map((rate) => element("option", { value: rate, selected: rate === 1 }, `${rate}×`)));
      const zooms = [["−", 0.5, "Zoom out"], ["+", 2, "Zoom in"]].map(([sign, factor, name]) => element("button", { type: "button", "aria-label": name, onclick: () => {
        zoom = Math.max(1, Math.min(16, zoom * factor));
        wide.style.width = `${100 * zoom}%`;
        redraw();
        follow();
      } }, sign));
      const resynthesis = detail.resynthesis ? element("label", {}, `From the units: ${detail.vocoder || "resynthesis"}`, element("audio", { controls: true, src: detail.resynthesis, "aria-label": "Resynthesised from the units" })) : "";
      nodes.push(element("div", { class: "tools" }, button, position, clock, element("label", {}, "Speed", speed), ...zooms, resynthesis), audio);
      audio.addEventListener("play", () => { button.textContent = "Pause"; cancelAnimationFrame(frame); run(); });
      audio.addEventListener("pause", () => { button.textContent = "Play"; follow(); });
      audio.addEventListener("timeupdate", check);
      words.forEach((word, index) => { word.onclick = () => playWord(index); });
      var show = (now) => { position.value = now; clock.textContent = `${now.toFixed(2)} / ${seconds.toFixed(2)} s`; };
    } else words.forEach((word) => { word.disabled = true; });
    function check() { if (stopAt !== null && audio.currentTime >= stopAt) { audio.pause(); stopAt = null; } }
    function run() { check(); follow(); if (!audio.paused) frame = requestAnimationFrame(run); }
    function follow() {
      const now = audio ? audio.currentTime : 0;
      cursor.style.left = `${100 * now / seconds}%`;
      if (audio) show(now);
      words.forEach((word, index) => { const [, start, end] = detail.words[index]; word.classList.toggle("now", now > 0 && now >= start && now < end); });
      const x = now / seconds * wide.clientWidth;
      if (audio && !audio.paused && (x < tracks.scrollLeft || x > tracks.scrollLeft + 0.9 * tracks.clientWidth)) tracks.scrollLeft = x - 0.1 * tracks.clientWidth;
    }
    function redraw() { drawn.forEach((draw) => draw()); }
    if (detail.peaks) wide.append(wave);
    if (detail.words.length) {
      const canvas = track("Words", 30, (context, x, height) => drawWords(context, x, height, detail), "words-track");
      canvas.addEventListener("click", (event) => {
        const at = event.offsetX / canvas.clientWidth * seconds;
        const index = detail.words.findIndex(([, start, end]) => at >= start && at < end);
        if (audio && index >= 0) playWord(index);
        else seek(at);
      });
    }
    if (detail.units) track(`Units, ${number(detail.units.rate)} per second`, 28, (context, x, height) => drawTokens(context, x, height, detail.units));
    if (detail.f0) {
      const decoded = detail.f0_tokens ? ", and as the pitch tokens keep it (dashed)" : "";
      track(`F0, Hz${decoded}`, 110, (context, x, height) => drawF0(context, x, height, detail));
    }
    if (detail.pitch) track(`Pitch tokens, ${number(detail.pitch.rate)} per second`, 24, (context, x, height) => drawTokens(context, x, height, detail.pitch));
    if (detail.style) track(`Style tokens, ${number(detail.style.rate)} per second`, 24, (context, x, height) => drawTokens(context, x, height, detail.style));
    wide.append(cursor);
    nodes.push(tracks);
    let surfer = null;
    const mount = () => {
      if (detail.peaks) {
        const regions = WaveSurfer.Regions.create();
        surfer = WaveSurfer.create({
          container: wave, media: audio || undefined, peaks: [detail.peaks], duration: seconds, height: 90, cursorWidth: 0, hideScrollbar: true, normalize: true,
          waveColor: color("wave"), progressColor: color("played"), interact: Boolean(audio), plugins: [regions, WaveSurfer.Timeline.create({ height: 16, secondaryLabelOpacity: 0.9, style: { fontSize: "11px", color: color("soft") } })],
        });
        surfer.on("interaction", () => { stopAt = null; follow(); });
        const mark = () => {
          regions.clearRegions();
          (detail.spans || []).forEach((span) => regions.addRegion({ start: detail.words[span.first][1], end: Math.min(seconds, detail.words[span.last - 1][2]), drag: false, resize: false, color: `${color(span.speech ? "speech" : "text")}26` }));
        };
        surfer.on("ready", mark);
      }
      while (zoom < 16 && zoom * tracks.clientWidth / seconds < 60) zoom *= 2;
      wide.style.width = `${100 * zoom}%`;
      observer.observe(wide);
      redraw();
      follow();
    };
    const observer = new ResizeObserver(() => redraw());
    const repaint = () => { redraw(); if (surfer) surfer.setOptions({ waveColor: color("wave"), progressColor: color("played") }); };
    const stop = () => { observer.disconnect(); cancelAnimationFrame(frame); if (audio) { audio.pause(); audio.removeAttribute("src"); audio.load(); } if (surfer) surfer.destroy(); };
    player = { mount, repaint, stop, toggle: audio ? toggle : null, audio, cursor, seconds };
    return { nodes };
  }

  // Tracks -----------------------------------------------------------------------------------------------------------

  function paint(canvas, height, seconds, draw) {
    const width = canvas.clientWidth;
    const ratio = Math.min(window.devicePixelRatio || 1, 16000 / Math.max(width, 1));
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    const context = canvas.getContext("2d");
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.font = "12px system-ui, sans-serif";
    context.textBaseline = "middle";
    draw(context, (at) => at / seconds * width, height);
  }

  function clipped(context, text, left, right, y) {
    const room = right - left - 4;
    if (room < 7) return;
    context.save();
    context.beginPath();
    context.rect(left + 1, 0, right - left - 2, 2 * y);
    context.clip();
    const width = context.measureText(text).width;
    if (width <= room || room > 24) context.fillText(text, width <= room ? (left + right - width) / 2 : left + 3, y);
    context.restore();
  }

  function drawWords(context, x, height, detail) {
    const kinds = new Map();
    (detail.spans || []).forEach((span) => { for (let index = span.first; index < span.last; index += 1) kinds.set(index, span.speech ? "speech" : "text"); });
    detail.words.forEach(([text, start, end], index) => {
      const tone = kinds.get(index);
      context.fillStyle = color(tone ? `${tone}-back` : "head");
      context.fillRect(x(start), 2, x(end) - x(start) - 1, height - 4);
      context.fillStyle = color(tone || "ink");
      clipped(context, text, x(start), x(end), height / 2);
    });
  }

  function drawTokens(context, x, height, { rate, start, values }) {
    const ink = color("ink");
    const light = color("light");
    const chroma = color("chroma");
    for (let first = 0; first < values.length;) {
      let last = first + 1;
      while (last < values.length && values[last] === values[first]) last += 1;
      const [left, right] = [x(Math.max(0, start + first / rate)), x(start + last / rate)];
      context.fillStyle = `hsl(${values[first] * 137.5 % 360} ${chroma} ${light})`;
      context.fillRect(left, 2, Math.max(right - left - 0.5, 0.5), height - 4);
      context.fillStyle = ink;
      if (right - left > 18) clipped(context, String(values[first]), left, right, height / 2);
      first = last;
    }
  }

  function drawF0(context, x, height, detail) {
    const curves = [detail.f0, detail.f0_tokens].filter(Boolean);
    const known = curves.flatMap((curve) => curve.values.filter((value) => value !== null));
    if (!known.length) return;
    const [low, high] = [Math.max(40, 0.9 * Math.min(...known)), 1.1 * Math.max(...known)];
    const y = (hertz) => height - 4 - (height - 8) * Math.log(hertz / low) / Math.log(high / low);
    [75, 100, 150, 200, 300, 400, 600].filter((hertz) => hertz > low && hertz < high).forEach((hertz) => {
      context.strokeStyle = color("grid");
      context.lineWidth = 1;
      context.setLineDash([]);
      context.beginPath();
      context.moveTo(0, y(hertz));
      context.lineTo(x(1e6), y(hertz));
      context.stroke();
      context.fillStyle = color("soft");
      context.fillText(String(hertz), 4, y(hertz));
    });
    curves.forEach((curve, index) => {
      context.strokeStyle = color(index ? "second" : "accent");
      context.lineWidth = 2;
      context.setLineDash(index ? [5, 3] : []);
      context.beginPath();
      curve.values.forEach((value, at) => {
        if (value === null) return;
        const gap = at === 0 || curve.values[at - 1] === null;
        context[gap ? "moveTo" : "lineTo"](x(at / curve.rate), y(value));
      });
      context.stroke();
    });
  }

  // Pages ------------------------------------------------------------------------------------------------------------

  async function route(focus = true) {
    const hash = location.hash.slice(1);
    const [page, argument] = [hash.split("=")[0] || "overview", hash.includes("=") ? decodeURIComponent(hash.slice(hash.indexOf("=") + 1)) : undefined];
    if (player) player.stop();
    player = null;
    let nodes;
    try {
      nodes = page === "utterance" ? await utterance(argument) : page === "utterances" ? utterances(argument) : page === "build" ? settings() : overview();
    } catch (error) {
      nodes = [element("h2", {}, "Not shown"), element("p", {}, error.message)];
    }
    main.replaceChildren(...nodes);
    if (player) player.mount();
    document.title = `${page === "utterance" ? argument : page} · ${build.build} · wordweave`;
    document.querySelectorAll("nav a").forEach((one) => {
      const here = one.hash === `#${page === "utterance" ? "utterances" : page}`;
      if (here) one.setAttribute("aria-current", "page");
      else one.removeAttribute("aria-current");
    });
    if (focus) { main.focus({ preventScroll: true }); window.scrollTo(0, 0); }
    window.inspector = { player, ready: hash };
  }

  function setTheme(theme) {
    document.documentElement.dataset.theme = theme;
    document.getElementById("theme").textContent = theme === "dark" ? "Light" : "Dark";
    document.getElementById("theme").setAttribute("aria-label", theme === "dark" ? "Use light colours" : "Use dark colours");
  }

  function start() {
    const dark = matchMedia("(prefers-color-scheme: dark)");
    let stored = null;
    try { stored = localStorage.getItem("wordweave-theme"); } catch { /* storage may be off */ }
    setTheme(stored || (dark.matches ? "dark" : "light"));
    const change = (theme) => { setTheme(theme); if (player) player.repaint(); else route(false); };
    dark.addEventListener("change", () => change(dark.matches ? "dark" : "light"));
    document.getElementById("theme").onclick = () => {
      const theme = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
      try { localStorage.setItem("wordweave-theme", theme); } catch { /* storage may be off */ }
      change(theme);
    };
    document.addEventListener("keydown", (event) => {
      if (event.key !== " " || !player || !player.toggle || event.target.closest("button, input, select, a, summary, audio")) return;
      event.preventDefault();
      player.toggle();
    });
    document.querySelector(".skip").onclick = (event) => { event.preventDefault(); main.focus(); };
    window.addEventListener("hashchange", () => route());
    route(false);
  }
})();
