// What is wrong with the page that is shown: too wide, too small, too faint, without its pictures.
(() => {
  const channels = (text) => (text.match(/[\d.]+/g) || []).map(Number);
  const rgba = (text) => {
    const found = channels(text);
    const scale = text.startsWith("color(srgb") ? 255 : 1;
    return [found[0] * scale, found[1] * scale, found[2] * scale, found.length > 3 ? found[3] : 1];
  };
  const over = (top, below) => [0, 1, 2].map((i) => top[i] * top[3] + below[i] * (1 - top[3])).concat(1);
  const luminance = (colour) => {
    const [r, g, b] = colour.slice(0, 3).map((c) => c / 255).map((c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    const layers = [];
    for (let at = element; at; at = at.parentElement) {
      const colour = rgba(getComputedStyle(at).backgroundColor);
      layers.push(colour);
      if (colour[3] === 1) break;
    }
    return layers.reverse().reduce((below, top) => over(top, below), [255, 255, 255, 1]);
  };
  const problems = new Set();
  if (document.documentElement.scrollWidth > innerWidth) problems.add(`wider than the window: ${document.documentElement.scrollWidth}`);
  for (const element of document.querySelectorAll("article *")) {
    const box = element.getBoundingClientRect();
    if (box.width < 2 || box.right <= innerWidth + 1 || !element.checkVisibility()) continue;
    let at = element;
    const scrolls = () => ["auto", "scroll"].includes(getComputedStyle(at).overflowX) && at.getBoundingClientRect().right <= innerWidth + 1;
    while (at && at.tagName !== "ARTICLE" && !scrolls()) at = at.parentElement;
    if (!at || at.tagName === "ARTICLE") problems.add(`cut off at the right: <${element.tagName}> "${element.textContent.trim().slice(0, 30)}"`);
  }
  if (document.querySelectorAll("h1").length !== 1 && !location.pathname.endsWith("search.html")) problems.add("not one title");
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let texts = 0;
  while (walker.nextNode()) {
    const text = walker.currentNode.textContent.trim();
    const element = walker.currentNode.parentElement;
    if (!text || !element.checkVisibility({ opacityProperty: true, visibilityProperty: true })) continue;
    if (["SCRIPT", "STYLE", "NOSCRIPT", "TITLE", "DESC"].includes(element.tagName.toUpperCase())) continue;
    const box = element.getBoundingClientRect();
    if (box.width < 2 || box.height < 2 || box.right <= 0 || box.left >= innerWidth) continue;
    texts += 1;
    const style = getComputedStyle(element);
    const svg = element.closest("svg");
    const scale = svg ? svg.getScreenCTM().a : 1;
    const size = parseFloat(style.fontSize) * scale;
    if (size < 10.9) problems.add(`small: ${size.toFixed(1)} px in "${text.slice(0, 30)}"`);
    const ink = rgba(svg ? style.fill : style.color);
    const ground = behind(svg ? svg.parentElement : element);
    const [light, dark] = [luminance(over(ink, ground)), luminance(ground)].sort((a, b) => b - a);
    const contrast = (light + 0.05) / (dark + 0.05);
    if (!svg && contrast < 4.5) problems.add(`faint: ${contrast.toFixed(2)} in <${element.className || element.tagName}> "${text.slice(0, 30)}"`);
  }
  for (const image of document.querySelectorAll("main img, article img")) {
    if (getComputedStyle(image).display !== "none" && (!image.complete || !image.naturalWidth)) problems.add(`no picture: ${image.src}`);
    if (!image.alt) problems.add(`a picture without a text: ${image.src}`);
  }
  return { problems: [...problems].slice(0, 12), texts };
})()
