// SPDX-License-Identifier: MIT OR Apache-2.0
//! Plots of a run, as SVG: bars with intervals, cost against number of services, latency percentiles.

use std::collections::BTreeMap;

use anyhow::{Result, anyhow};
use plotters::{
    coord::Shift,
    prelude::{
        ChartBuilder, DrawingArea, IntoDrawingArea as _, IntoLogRange as _, LineSeries, PathElement,
        RGBColor, Rectangle, SVGBackend, Text, WHITE,
    },
    style::{
        Color as _, IntoFont as _, ShapeStyle,
        text_anchor::{HPos, Pos, VPos},
    },
};

use super::{
    markdown::{capitalized, grouped},
    plan::{Contestant, Row, Workload},
    results::Results,
    stats::{self, Estimate},
};

/// A picture and the name of its file.
pub struct Plot {
    pub name: String,
    pub svg: String,
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

const WIDTH: u32 = 880;
const BAR_HEIGHT: u32 = 34;
const LINES_HEIGHT: u32 = 420;
const LABELS: u32 = 250;
/// Room for the names of lines, and between two of them.
const LEGEND: u32 = 270;
const LEGEND_LINE: i32 = 24;
const INK: RGBColor = RGBColor(40, 44, 52);
/// The kernel's ways, userspace's ways, ours.
const KERNEL: RGBColor = RGBColor(90, 125, 154);
const USERSPACE: RGBColor = RGBColor(178, 132, 90);
const OURS: RGBColor = RGBColor(46, 139, 110);
/// Of lines, which must be told apart.
const LINES: [RGBColor; 13] = [
    RGBColor(40, 44, 52),
    RGBColor(31, 119, 180),
    RGBColor(23, 190, 207),
    RGBColor(46, 139, 110),
    RGBColor(140, 200, 80),
    RGBColor(178, 132, 90),
    RGBColor(255, 127, 14),
    RGBColor(150, 90, 60),
    RGBColor(214, 39, 40),
    RGBColor(148, 103, 189),
    RGBColor(188, 189, 34),
    RGBColor(227, 119, 194),
    RGBColor(127, 127, 127),
];
const LATENCIES: [&str; 4] = ["50 %", "75 %", "90 %", "99 %"];

/// All plots that the run has figures for.
pub fn all(results: &Results) -> Result<Vec<Plot>> {
    let mut plots = Vec::new();
    for workload in &results.plan.workloads {
        let bars = bars(results, *workload);
        if !bars.is_empty() {
            let height = 90 + BAR_HEIGHT * u32::try_from(bars.len())?;
            let title = format!(
                "{}: added to the direct way, {}",
                capitalized(workload.title()),
                results.unit()
            );
            plots.push(drawn(&format!("added-{}", workload.name()), height, |area| {
                draw_bars(area, &title, &bars)
            })?);
        }
        let lines = latencies(results, *workload);
        if !lines.is_empty() {
            let unit = results.latency_unit(1.0);
            let title = format!(
                "{}: latency in {unit}, by percentile",
                capitalized(workload.title())
            );
            plots.push(drawn(
                &format!("latency-{}", workload.name()),
                LINES_HEIGHT,
                |area| draw_latencies(area, &title, &lines),
            )?);
        }
    }
    let lines = by_services(results);
    if !lines.is_empty() {
        let title = format!(
            "Kept connections: {} per request, by number of services",
            results.unit()
        );
        plots.push(drawn("services", LINES_HEIGHT, |area| {
            draw_services(area, &title, &lines)
        })?);
    }
    Ok(plots)
}

fn drawn(name: &str, height: u32, draw: impl FnOnce(&Area<'_>) -> Result<()>) -> Result<Plot> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
        area.fill(&WHITE).map_err(failed)?;
        draw(&area)?;
        area.present().map_err(failed)?;
    }
    Ok(Plot {
        name: name.to_owned(),
        svg,
    })
}

/// The library's errors borrow from what it draws on.
fn failed(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("plot: {error}")
}

/// What each contestant adds, with one service; cheapest at the top.
fn bars(results: &Results, workload: Workload) -> Vec<(Contestant, Estimate)> {
    let added = |contestant| Some((contestant, results.added(Row::of(contestant), workload)?));
    let all = Contestant::ALL
        .into_iter()
        .filter(|contestant| *contestant != Contestant::Direct);
    let mut bars: Vec<(Contestant, Estimate)> = all.filter_map(added).collect();
    bars.sort_by(|a, b| b.1.value.total_cmp(&a.1.value));
    bars
}

fn draw_bars(area: &Area<'_>, title: &str, bars: &[(Contestant, Estimate)]) -> Result<()> {
    let least = bars.iter().map(|(_, cost)| cost.low).fold(0.0, f64::min);
    // The figure stands right of its bar.
    let most = bars.iter().map(|(_, cost)| cost.high).fold(1.0, f64::max) * 1.18;
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 18).into_font().color(&INK))
        .margin(12)
        .x_label_area_size(30)
        .y_label_area_size(LABELS)
        .build_cartesian_2d(least..most, 0.0..bars.len() as f64)
        .map_err(failed)?;
    let words = |side| {
        let font = ("sans-serif", 13).into_font().color(&INK);
        font.pos(Pos::new(side, VPos::Center))
    };
    chart
        .configure_mesh()
        .disable_y_mesh()
        .disable_y_axis()
        .x_label_formatter(&|value| grouped(*value))
        .light_line_style(WHITE)
        .label_style(("sans-serif", 13).into_font().color(&INK))
        .draw()
        .map_err(failed)?;
    for (index, (contestant, cost)) in bars.iter().enumerate() {
        let bottom = index as f64;
        let (middle, top) = (bottom + 0.5, bottom + 1.0);
        let mut bar = Rectangle::new([(0.0, bottom), (cost.value, top)], color(*contestant).filled());
        bar.set_margin(5, 5, 0, 0);
        chart.draw_series([bar]).map_err(failed)?;
        let whisker = PathElement::new(
            vec![(cost.low, middle), (cost.high, middle)],
            ShapeStyle::from(&INK).stroke_width(2),
        );
        chart.draw_series([whisker]).map_err(failed)?;
        let figure = format!("  {}", grouped(cost.value));
        let figure = Text::new(figure, (cost.high.max(0.0), middle), words(HPos::Left));
        chart.draw_series([figure]).map_err(failed)?;
        let (edge, line) = chart.backend_coord(&(least, middle));
        area.draw(&Text::new(
            contestant.short(),
            (edge - 10, line),
            words(HPos::Right),
        ))
        .map_err(failed)?;
    }
    Ok(())
}

fn color(contestant: Contestant) -> RGBColor {
    match contestant {
        Contestant::PorticoSocket | Contestant::PorticoL7 => OURS,
        contestant if contestant.is_tc() => OURS,
        contestant if contestant.is_userspace() => USERSPACE,
        _ => KERNEL,
    }
}

fn line_color(contestant: Contestant) -> RGBColor {
    let index = Contestant::ALL.iter().position(|other| *other == contestant);
    LINES[index.unwrap_or(0) % LINES.len()]
}

/// Kept requests' cost for each number of services; only contestants that were measured with more than one.
fn by_services(results: &Results) -> BTreeMap<Contestant, Vec<(f64, f64)>> {
    let mut lines: BTreeMap<Contestant, Vec<(f64, f64)>> = BTreeMap::new();
    // Others are special in another way.
    let only_services = |row: &&Row| Row { services: 1, ..**row }.is_plain();
    for row in results.plan.rows.iter().filter(only_services) {
        if let Some(cost) = results.cost(*row, Workload::KeepAlive) {
            lines
                .entry(row.contestant)
                .or_default()
                .push((f64::from(row.services), cost.value));
        }
    }
    lines.retain(|_, points| points.len() > 1);
    lines
}

fn draw_services(area: &Area<'_>, title: &str, lines: &BTreeMap<Contestant, Vec<(f64, f64)>>) -> Result<()> {
    let points = || lines.values().flatten();
    let most = points().map(|(_, cost)| *cost).fold(1.0, f64::max);
    let least = points().map(|(_, cost)| *cost).fold(most, f64::min).max(1.0);
    let many = points().map(|(services, _)| *services).fold(10.0, f64::max);
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 18).into_font().color(&INK))
        .margin(12)
        .margin_right(LEGEND)
        .x_label_area_size(40)
        .y_label_area_size(90)
        // Who asks every rule costs a hundred times what the others do.
        .build_cartesian_2d((1.0..many).log_scale(), (least * 0.7..most * 1.4).log_scale())
        .map_err(failed)?;
    chart
        .configure_mesh()
        .x_desc("services")
        .x_label_formatter(&|value| grouped(*value))
        .y_label_formatter(&|value| grouped(*value))
        .label_style(("sans-serif", 13).into_font().color(&INK))
        .draw()
        .map_err(failed)?;
    for (contestant, points) in lines {
        let style = ShapeStyle::from(&line_color(*contestant)).stroke_width(2);
        chart
            .draw_series(LineSeries::new(points.iter().copied(), style))
            .map_err(failed)?;
    }
    legend(area, lines)
}

/// Median of each percentile over the rounds.
fn latencies(results: &Results, workload: Workload) -> BTreeMap<Contestant, Vec<(f64, f64)>> {
    let mut lines = BTreeMap::new();
    for contestant in Contestant::ALL {
        let samples: Vec<_> = results.counting(Row::of(contestant), workload).collect();
        let at = |index: usize| {
            let values: Vec<f64> = samples
                .iter()
                .filter_map(|s| s.latency.get(index).copied())
                .collect();
            Some((index as f64, stats::median(&values)?))
        };
        let points: Vec<(f64, f64)> = (0..LATENCIES.len()).filter_map(at).collect();
        if points.len() == LATENCIES.len() {
            lines.insert(contestant, points);
        }
    }
    lines
}

fn draw_latencies(area: &Area<'_>, title: &str, lines: &BTreeMap<Contestant, Vec<(f64, f64)>>) -> Result<()> {
    let most = lines
        .values()
        .flatten()
        .map(|(_, value)| *value)
        .fold(1.0, f64::max);
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 18).into_font().color(&INK))
        .margin(12)
        .margin_right(LEGEND)
        .x_label_area_size(30)
        .y_label_area_size(80)
        .build_cartesian_2d(0.0..3.0, 0.0..most * 1.1)
        .map_err(failed)?;
    chart
        .configure_mesh()
        .x_labels(LATENCIES.len())
        .x_label_formatter(&|value: &f64| {
            LATENCIES
                .get(value.round() as usize)
                .map_or(String::new(), |l| (*l).to_owned())
        })
        .y_label_formatter(&|value| grouped(*value))
        .label_style(("sans-serif", 13).into_font().color(&INK))
        .draw()
        .map_err(failed)?;
    for (contestant, points) in lines {
        let style = ShapeStyle::from(&line_color(*contestant)).stroke_width(2);
        chart
            .draw_series(LineSeries::new(points.iter().copied(), style))
            .map_err(failed)?;
    }
    legend(area, lines)
}

/// The names of the lines right of them, in the order in which they end.
fn legend(area: &Area<'_>, lines: &BTreeMap<Contestant, Vec<(f64, f64)>>) -> Result<()> {
    let end = |points: &[(f64, f64)]| points.last().map_or(0.0, |(_, value)| *value);
    let mut names: Vec<(Contestant, f64)> = lines
        .iter()
        .map(|(contestant, points)| (*contestant, end(points)))
        .collect();
    names.sort_by(|a, b| b.1.total_cmp(&a.1));
    let left = i32::try_from(WIDTH - LEGEND)? + 14;
    for (index, (contestant, _)) in names.into_iter().enumerate() {
        let middle = 60 + LEGEND_LINE * i32::try_from(index)?;
        let style = ShapeStyle::from(&line_color(contestant)).stroke_width(3);
        area.draw(&PathElement::new(
            vec![(left, middle), (left + 18, middle)],
            style,
        ))
        .map_err(failed)?;
        let font = ("sans-serif", 13).into_font().color(&INK);
        let font = font.pos(Pos::new(HPos::Left, VPos::Center));
        area.draw(&Text::new(contestant.short(), (left + 26, middle), font))
            .map_err(failed)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_named_beside_the_lines() {
        let flat = |cost: f64| vec![(1.0, cost), (10_000.0, cost)];
        let lines = BTreeMap::from([
            (Contestant::IpvsNat, flat(60_000.0)),
            (Contestant::HaproxyHttp, vec![(1.0, 110_000.0), (10_000.0, 13e6)]),
        ]);
        let plot = drawn("x", LINES_HEIGHT, |area| draw_services(area, "title", &lines)).unwrap();
        let place = |name: &str| {
            plot.svg
                .find(name)
                .unwrap_or_else(|| panic!("{name} in {}", plot.svg))
        };
        assert!(
            place("HAProxy http") < place("IPVS NAT"),
            "who ends above is named above"
        );
        assert!(plot.svg.contains("10 000 000"), "{}", plot.svg);
    }

    #[test]
    fn every_bar_is_drawn_and_named() {
        let cost = |value| Estimate {
            value,
            low: value - 10.0,
            high: value + 10.0,
        };
        let bars = [
            (Contestant::PorticoL7, cost(5000.0)),
            (Contestant::PorticoTc, cost(-400.0)),
        ];
        let plot = drawn("x", 200, |area| draw_bars(area, "title", &bars)).unwrap();
        for text in ["title", "Portico L7", "Portico tc (preserve)", "5 000", "-400"] {
            assert!(plot.svg.contains(text), "{text} in {}", plot.svg);
        }
    }
}
