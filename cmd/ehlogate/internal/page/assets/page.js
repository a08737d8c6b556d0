// Keeps the page fresh while it is looked at and nobody is typing in it. All of it works without.
"use strict";
const every = 30000;
async function refresh() {
	const main = document.querySelector("main");
	if (document.hidden || main.contains(document.activeElement) || main.querySelector("details[open]")) return;
	try {
		const answer = await fetch(location.href, { credentials: "same-origin" });
		if (!answer.ok) return;
		const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").querySelector("main");
		if (fresh) main.replaceWith(fresh);
	} catch (away) {
		// The daemon is away; the page stays as it is.
	}
}
setInterval(refresh, every);
